"""The benchmarks themselves: fair rounds, whole records, and every case also runs on a processor
with a small network."""
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench.command import main
from bench.equivalence import compared_shapes, probe, relative_difference, sample_numbers
from bench.forward import forward_cases, precisions_and_layouts
from bench.gpu import gpu_losses, gpu_resume, gpu_sampling, gpu_training, guided_run
from bench.others import ask_ours, checkout, seeded_weights
from bench.records import newest, store, table
from bench.samplers import free_denoiser, sampler_cases
from bench.timing import largest_batch, rounds, summary
from bench.training import COMPILED, SWITCHES, option_makers, training_makers
from cfg_lessons.costs import flops
from cfg_lessons.unet import UNet, UNetConfig

ROOT = Path(__file__).resolve().parent.parent
TINY = UNetConfig(side=16, width=32, mults=(1, 2), blocks=1, attention=(8,), head_width=32,
                  num_classes=10)
OURS = [f'ours, {words}' for words, *_ in precisions_and_layouts()]


def test_rounds_take_turns():
    ticks = iter([0, 1, 1, 3, 3, 5, 5, 6])  # a clock of our own: A takes 1 and 2, B takes 2 and 1
    calls = []
    seconds = rounds({
        'A': lambda: calls.append('A'),
        'B': lambda: calls.append('B')
    }, repeats=2, clock=lambda: next(ticks))
    assert calls == ['A', 'B']*3 and seconds == {'A': [1, 2], 'B': [2, 1]}
    assert summary({
        'A': [4, 8, 4],
        'B': [2, 4, 2]
    })['B'] == dict(median=2, ratio=2., ratio_low=2., ratio_high=2.)


def test_records_are_stored_and_found(tmp_path):
    cases = summary({'A': [1, 2], 'B': [2, 1]})
    path = store(tmp_path, dict(bench='demo', what='nothing', cases=cases))
    assert newest(tmp_path, 'demo', what='nothing')['cases'] == cases
    assert path.name.startswith('demo_nothing_')
    with pytest.raises(ValueError, match='no record of the bench demo'):
        newest(tmp_path, 'demo', what='something')
    assert table(dict(bench='demo', what='nothing', cases=cases)).count('\n') == 3


def test_the_same_weights_and_answers():
    """Weights depend on the seed and on names alone; ours answers alike in every precision and
    layout."""
    net, deeper = seeded_weights(UNet(TINY)), seeded_weights(UNet(replace(TINY, mults=(1, 2, 2))))
    assert net.out[2].weight.equal(deeper.out[2].weight)
    assert not net.out[2].weight.equal(seeded_weights(UNet(TINY), 1).out[2].weight)
    answers = {name: f() for name, f in forward_cases(TINY, 2).items() if name in OURS}
    assert list(answers) == OURS
    assert all((a - answers['ours, float32']).norm() < .05*a.norm() for a in answers.values())
    with pytest.raises(ValueError, match='give the folder of a checkout'): checkout('/nowhere')


def test_training_steps_learn():
    for name, make in training_makers(TINY, 4).items():
        torch.manual_seed(0)
        step = make()
        torch.manual_seed(0)
        first = step()
        for _ in range(20): step()
        torch.manual_seed(0)
        assert step() < first, name
    losses = {name: make()().item() for name, make in option_makers(TINY, 4).items()}
    assert list(losses) == list(SWITCHES) and max(losses.values()) - min(losses.values()) < .5
    assert list(option_makers(TINY, 4, compiled=True)) == [*SWITCHES, *COMPILED]


def test_samplers_run():
    assert all(f().shape == (2, 1, 8, 8) for name, f in sampler_cases(batch=2, steps=4).items()
               if name.startswith('ours'))
    assert guided_run(free_denoiser, TINY, 2, 'cpu', 3)().shape == (2, 3, 16, 16)


def test_what_is_compared_is_not_zero():
    shape = compared_shapes()['four heads']
    answer, by_picture, by_parameter = probe(
        seeded_weights(UNet(shape)).eval(), shape, ask_ours, batch=2)
    assert answer.shape == (2, 3, 24, 24) and len(sample_numbers(answer)) == 24
    assert answer.std() > .1
    assert by_picture.abs().max() > 0 and all(g.abs().max() > 0 for g in by_parameter.values())
    assert relative_difference(torch.tensor([-4., 1.]), torch.tensor([-4., 2.])) == .25
    assert [round(flops(compared_shapes()[name])/1e9)
            for name in ('ADM-64', 'ADM-128')] == [219, 614]


def test_the_largest_batch():
    def crowded(batch):
        def make():
            if batch > 40: raise torch.cuda.OutOfMemoryError('full')
            return lambda: None
        return make
    assert largest_batch(crowded, 'cpu') == (32, 0)
    assert largest_batch(crowded, 'cpu', begin=64) == (0, 0)


def test_gpu_benchmarks_run_on_a_processor():
    "There the resumed run ends exactly where the straight one does."
    assert gpu_resume(TINY, 4, 'cpu', 4)['cases'] == {
        'the same again': dict(apart=0.),
        'stopped and resumed': dict(apart=0.)
    }
    found = gpu_losses(TINY, 8, 'cpu', 30)['cases']
    assert found['float32'][
        'last'] < .9*found['float32']['first'] and 0 < found['bf16']['apart'] < .05, found
    for facts in (gpu_training(TINY, 2, 'cpu', repeats=2),
                  gpu_training(TINY, 4, 'cpu', repeats=2, makers=option_makers),
                  gpu_sampling(TINY, 2, 'cpu', repeats=2, steps=2)):
        assert facts['cases'] and all(v > 0 for case in facts['cases'].values()
                                      for v in case.values()), facts
    assert [name for name in facts['cases'] if name.startswith('ours')] == OURS


def test_one_failure_does_not_end_the_others(monkeypatch):
    def broken(*given, **options):
        return {
            'broken': lambda: (_ for _ in ()).throw(RuntimeError('no kernel')),
            **training_makers(*given, **options)
        }
    said = io.StringIO()
    with redirect_stderr(said): facts = gpu_training(TINY, 2, 'cpu', repeats=2, makers=broken)
    assert 'broken failed: no kernel' in said.getvalue()
    assert set(OURS[:1]) <= set(facts['cases']) and 'broken' not in facts['cases']


def test_the_command(tmp_path):
    """What it lacks is said in a sentence; it starts from any folder, with no more installed than a
    GPU machine has."""
    said = io.StringIO()
    with redirect_stderr(said): assert main(['equivalence', '--out', str(tmp_path)]) == 1
    assert said.getvalue().startswith('equivalence needs --checkout')
    assert not list(tmp_path.iterdir())
    blocked = [
        'fastcore', 'nbdev', 'sklearn', 'scipy', 'matplotlib', 'ipywidgets', 'IPython',
        'torchvision', 'torch_fidelity', 'tyro', 'diffusers', 'pytest'
    ]
    (tmp_path/
     'sitecustomize.py').write_text(f'import sys\nfor b in {blocked!r}: sys.modules[b] = None\n')
    env = {
        k: v for k, v in os.environ.items() if k != 'PYTHONPATH'
    } | dict(PYTHONPATH=str(tmp_path))
    done = subprocess.run([sys.executable, ROOT/'tests'/'bench', '--help'], capture_output=True,
                          text=True, cwd=tmp_path, env=env)
    assert done.returncode == 0 and 'equivalence' in done.stdout, done.stderr
