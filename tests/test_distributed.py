"Training that is stopped, killed, starved and spoilt, and goes on as if nothing had happened."
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import engine_worker
from cfg_lessons.classifier_free import classifier_free
from cfg_lessons.diffusion import cosine
from cfg_lessons.distributed import Engine, Plan, World, album, checkpoints, fault, generate, keep_training, read_log
from cfg_lessons.images import open_images
from cfg_lessons.sampling import ancestral, clipped, last, sample
from cfg_lessons.training import denoising_loss, load
from cfg_lessons.unet import DIGITS, UNet

ROOT = Path(__file__).resolve().parent.parent
MADE = dict(w=.5, steps=8)


def same(a, b):
    "Whether the newest checkpoints of two runs are equal to the last bit: weights, average and optimizer."
    a, b = checkpoints(a)[0], checkpoints(b)[0]
    facts = [json.loads((p/'state.json').read_text()) for p in (a, b)]
    return facts[0] == facts[1] and not fault(a) and not fault(b)


def forked(f, *args, **kwargs):
    "Run f in a process of its own, quickly: a fork, which has everything imported already. Returns its number."
    if pid := os.fork(): return pid
    code = 1
    try:
        torch.set_num_threads(1)
        f(*args, **kwargs)
        code = 0
    except (ValueError, OSError) as e: os.write(2, f'{e}\n'.encode())
    finally: os._exit(code)


def torchrun(folder, options, *words, n=2, limit=120):
    "Run the worker in n processes."
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={n}', *words,
               str(ROOT/'tests'/'engine_worker.py'), str(folder), json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=limit, env=os.environ | {'OMP_NUM_THREADS': '1'}, cwd=ROOT)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    "Twelve steps without interruption."
    folder = tmp_path_factory.mktemp('straight')
    torch.set_num_threads(1)
    assert engine_worker.run(folder) == 'done'
    return folder


@pytest.mark.parametrize('stop', [1, 5, 9])
def test_exact_resume(straight, tmp_path, stop):
    "Any k steps, then the rest: order, mirroring, noise, dropped labels, dropout, average, optimizer, learning rate."
    assert engine_worker.run(tmp_path, plan=dict(steps=stop)) == 'done'
    assert not same(straight, tmp_path)
    assert engine_worker.run(tmp_path) == 'done'
    assert same(straight, tmp_path)
    assert [line['step'] for line in read_log(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize('option', [dict(channels_last=True), dict(bf16=True, recompute=True), dict(parts=4, clip=0.)])
def test_exact_resume_with_switches(tmp_path, option):
    for folder, ends in (('straight', (8,)), ('cut', (3, 8))):
        for end in ends: engine_worker.run(tmp_path/folder, plan=dict(steps=end) | option)
    assert same(tmp_path/'straight', tmp_path/'cut')


def test_one_engine_used_again(straight, tmp_path):
    "What a notebook does: the same engine asked to go on, after a signal and after the end; and an engine that others have overtaken."
    world, plan = World(), Plan(steps=12, batch_size=16, lr=1e-3, warm=4, save_every=3, log_every=1)
    torch.manual_seed(0)
    engine, calls = Engine(tmp_path, UNet(DIGITS), plan, world), []
    stale = Engine(tmp_path, UNet(DIGITS), plan, world)
    def loss(denoiser, x, label, note):
        calls.append(1)
        if len(calls) == 5: os.kill(os.getpid(), signal.SIGTERM)
        if len(calls) == 9: raise KeyboardInterrupt
        return denoising_loss(denoiser, cosine, x, label, .2, note=note)
    assert keep_training(engine, loss, engine_worker.DATA) == 'stopped'
    with pytest.raises(ValueError, match='at step 5, or .*; make a new Engine'): keep_training(stale, loss, engine_worker.DATA)
    with pytest.raises(KeyboardInterrupt): keep_training(engine, loss, engine_worker.DATA)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    with pytest.raises(ValueError, match='make a new Engine'): keep_training(engine, loss, engine_worker.DATA)
    engine = Engine(tmp_path, UNet(DIGITS).eval(), plan, world)  # handed over in the wrong mode
    assert [keep_training(engine, loss, engine_worker.DATA) for _ in range(2)] == ['done', 'done']
    assert same(straight, tmp_path)


def test_two_at_work_in_one_folder(tmp_path):
    "The second is told so, and disturbs nothing; when the first is gone, even by kill -9, the folder is free."
    plan = dict(steps=150, save_every=3)
    pid = forked(engine_worker.run, tmp_path, plan=plan, at={'each': 'slow'})
    while not (tmp_path/'log.jsonl').exists() or not read_log(tmp_path):
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(.05)
    with pytest.raises(ValueError, match='Somebody else is at work in|does not stand where'): engine_worker.run(tmp_path, plan=plan)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert engine_worker.run(tmp_path, plan=plan | dict(steps=6)) == 'done' and not any(map(fault, checkpoints(tmp_path)))


def test_what_it_refuses_leaves_no_trace(tmp_path):
    for wrong in (dict(lr=-1.), dict(warm=0), dict(seed=-1), dict(seed=2**70), dict(steps=12.5), dict(batch_size='16'), dict(clip=float('nan')), dict(parts=0)):
        with pytest.raises(ValueError, match=f'{[*wrong][0]} is .*; it must be'): engine_worker.run(tmp_path, plan=wrong)
    plan = Plan(steps=3, batch_size=8, recompute=True)
    with pytest.raises(ValueError, match='recompute is for'): Engine(tmp_path, torch.nn.Linear(2, 2), plan, World())
    with pytest.raises(ValueError, match='batch norm'): Engine(tmp_path, torch.nn.Sequential(torch.nn.BatchNorm2d(1)), plan, World())
    with pytest.raises(ValueError, match='lr is in the plan already'): engine_worker.run(tmp_path, settings=dict(lr=1))
    with pytest.raises(ValueError, match='more than finite numbers'): engine_worker.run(tmp_path, settings=dict(p=float('nan')))
    assert not [p for p in tmp_path.rglob('*') if p.is_file()]
    assert engine_worker.run(tmp_path, plan=dict(steps=3)) == 'done'
    x, y = engine_worker.DATA
    engine = Engine(tmp_path, UNet(DIGITS), Plan(steps=6, batch_size=16, lr=1e-3, warm=4, save_every=3, log_every=1), World())
    with pytest.raises(ValueError, match='classes was .* and is'): keep_training(engine, None, (x, (y + 1) % 10))
    for text, complaint in (('', 'settings.json is damaged'), ('[]', 'settings.json is damaged'), (None, 'settings.json is missing')):
        (tmp_path/'settings.json').unlink() if text is None else (tmp_path/'settings.json').write_text(text)
        with pytest.raises(ValueError, match=complaint): engine_worker.run(tmp_path)
    assert not fault(checkpoints(tmp_path)[0])


def test_only_checkpoints_are_taken_for_checkpoints(tmp_path):
    engine_worker.run(tmp_path, plan=dict(steps=6))
    there = tmp_path/'checkpoints'
    shutil.copytree(there/'step_000000003', there/'step_mybackup1')
    assert [p.name for p in checkpoints(tmp_path)] == ['step_000000006', 'step_000000003']
    (there/'step_000000006').rename(there/'step_000000009')
    assert fault(there/'step_000000009') == 'it is of step 6'
    engine_worker.run(tmp_path, plan=dict(steps=6, keep=1))
    assert [p.name[:7] for p in sorted(there.iterdir())] == ['damaged', 'step_00', 'step_my']


def test_options_that_must_not_matter_much(straight, tmp_path):
    "With recomputed activations and with channels last the losses are the same but for rounding; in parts the noise is another."
    wanted = [line['loss'] for line in read_log(straight)]
    for i, options in enumerate([dict(recompute=True), dict(channels_last=True)]):
        engine_worker.run(tmp_path/str(i), plan=options)
        found = [line['loss'] for line in read_log(tmp_path/str(i))]
        np.testing.assert_allclose(found[:4], wanted[:4], rtol=1e-4)
        np.testing.assert_allclose(found, wanted, rtol=2e-2)  # rounding grows with every step of AdamW
    engine_worker.run(tmp_path/'parts', plan=dict(parts=4))  # other noise
    assert abs(np.mean([line['loss'] for line in read_log(tmp_path/'parts')]) - np.mean(wanted)) < .1


def test_channels_last_is_really_so(tmp_path):
    "Weights and pictures lie in memory as the plan says, and the checkpoint does not care."
    plan = Plan(steps=2, batch_size=16, channels_last=True)
    engine = Engine(tmp_path, UNet(DIGITS), plan, World())
    seen = []
    def loss(denoiser, x, label, note):
        seen.append((x.is_contiguous(memory_format=torch.channels_last), engine.net.input_blocks[1][0].in_layers[2].weight.stride(1)))
        return denoiser(x, torch.zeros(len(x)), label).pow(2).mean()
    assert keep_training(engine, loss, engine_worker.DATA) == 'done'
    assert seen == [(True, 1)]*2
    assert Engine(tmp_path, UNet(DIGITS), plan, World()).start == 2


def test_a_signal_ends_it_in_good_order(straight, tmp_path):
    assert engine_worker.run(tmp_path, at={'4': 'term'}) == 'stopped'
    assert checkpoints(tmp_path)[0].name == 'step_000000005'
    assert engine_worker.run(tmp_path) == 'done'
    assert same(straight, tmp_path)


def test_killed_twenty_times(tmp_path):
    "kill -9 at random moments, twenty times: the run always goes on, and ends where an undisturbed one does."
    plan, random_wait = dict(steps=150, save_every=3), random.Random(0)
    engine_worker.run(tmp_path/'straight', plan=plan)
    folder, killed, furthest = tmp_path/'killed', 0, 0
    for _ in range(60):
        pid = forked(engine_worker.run, folder, plan=plan, at={'each': 'slow'})
        time.sleep(random_wait.uniform(.05, .6))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status): assert os.WEXITSTATUS(status) == 0
        killed += os.WIFSIGNALED(status)
        taken = [line['step'] for line in read_log(folder)] if (folder/'log.jsonl').exists() else []
        whole = [int(p.name[5:]) for p in checkpoints(folder) if not fault(p)]
        assert len(whole) == len(checkpoints(folder)) and max(whole, default=0) >= furthest  # nothing torn, nothing lost
        furthest = max(whole, default=0)
        assert max(taken, default=0) - furthest <= plan['save_every']
        if killed >= 20: break
    assert killed >= 20
    engine_worker.run(folder, plan=plan)
    assert same(tmp_path/'straight', folder)
    assert not list((folder/'checkpoints').glob('*.part'))


@pytest.mark.parametrize('name', ['net.safetensors', 'opt.safetensors', 'ema.safetensors', 'state.json'])
@pytest.mark.parametrize('deed', ['cut', 'altered', 'gone'])
def test_a_damaged_checkpoint_is_passed_over(straight, tmp_path, capsys, name, deed):
    engine_worker.run(tmp_path, plan=dict(steps=9))
    path = checkpoints(tmp_path)[0]/name
    data = bytearray(path.read_bytes())
    if deed == 'cut': path.write_bytes(data[:len(data)//2])
    if deed == 'altered': path.write_bytes(data.replace(b'"hashes"', b'"wrong"') if name == 'state.json' else data[:-1] + bytes([data[-1] ^ 1]))
    if deed == 'gone': path.unlink()
    assert engine_worker.run(tmp_path) == 'done'
    assert 'is damaged' in capsys.readouterr().err
    assert [json.loads((p/'state.json').read_text())['step'] for p in checkpoints(tmp_path) if not fault(p)][0] == 12
    assert same(straight, tmp_path)


def test_a_damaged_checkpoint_is_not_in_the_way(straight, tmp_path, capsys):
    "Its step is saved again when it comes round, it is not counted among those to keep, and every fact in it is guarded."
    engine_worker.run(tmp_path, plan=dict(steps=9))
    state = checkpoints(tmp_path)[0]/'state.json'
    state.write_text(state.read_text().replace('"step": 9', '"step": 8'))
    assert engine_worker.run(tmp_path, plan=dict(steps=11)) == 'done'
    assert 'state.json is not what was written' in capsys.readouterr().err
    assert [p.name for p in checkpoints(tmp_path)] == ['step_000000011', 'step_000000009', 'step_000000006']
    assert not any(map(fault, checkpoints(tmp_path)))
    assert [p.name[:22] for p in (tmp_path/'checkpoints').glob('damaged*')] == ['damaged_step_000000009']
    engine_worker.run(tmp_path)
    assert same(straight, tmp_path)


def test_nothing_whole_is_said_and_left_alone(tmp_path):
    engine_worker.run(tmp_path, plan=dict(steps=3))
    (checkpoints(tmp_path)[0]/'net.safetensors').write_bytes(b'')
    with pytest.raises(ValueError, match='No checkpoint in .* is whole'): engine_worker.run(tmp_path)


def test_no_space(straight, tmp_path, capfd):
    "A checkpoint that does not fit: one sentence, and the one before is as it was."
    engine_worker.run(tmp_path, plan=dict(steps=3))
    def cramped():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
        engine_worker.run(tmp_path)
    _, status = os.waitpid(forked(cramped), 0)
    assert os.WEXITSTATUS(status) == 1
    said = [line for line in capfd.readouterr().err.splitlines() if 'could not be written' in line]
    assert len(said) == 1 and 'step_000000006' in said[0] and 'Traceback' not in said[0]
    assert [p.name for p in (tmp_path/'checkpoints').iterdir()] == ['step_000000003'] and not fault(checkpoints(tmp_path)[0])
    assert engine_worker.run(tmp_path) == 'done' and same(straight, tmp_path)


def test_other_settings_are_refused(tmp_path):
    engine_worker.run(tmp_path, plan=dict(steps=3), settings=dict(p_uncond=.1))
    with pytest.raises(ValueError, match='p_uncond was 0.1 and is 0.2; seed was 0 and is 1'):
        engine_worker.run(tmp_path, plan=dict(seed=1), settings=dict(p_uncond=.2))
    engine_worker.run(tmp_path, plan=dict(log_every=2, save_every=5), settings=dict(p_uncond=.1))  # habits may change
    with pytest.raises(ValueError, match='must be a multiple of 3'): engine_worker.run(tmp_path/'other', plan=dict(parts=3))
    assert not (tmp_path/'other').exists()


def test_not_finite_is_left_out_and_counted(tmp_path):
    engine_worker.run(tmp_path/'a', at={'4': 'nan', '7': 'nan'})
    lines = read_log(tmp_path/'a')
    assert [line['skipped'] for line in lines] == [0]*4 + [1]*3 + [2]*5
    assert all(np.isfinite([line['loss'] or 0, *(b or 0 for b in line['by_logsnr'])]).all() for line in lines)
    with pytest.raises(ValueError, match=r'the last 3 had .* rank 0 \(last in step 6, counted from 0\)\. .* mixed_seed\(0, rank, step\)'):
        engine_worker.run(tmp_path/'b', plan=dict(patience=3), at={'4': 'nan', '5': 'nan', '6': 'nan'})
    assert checkpoints(tmp_path/'b')[0].name == 'step_000000006' and not fault(checkpoints(tmp_path/'b')[0])
    bad = {str(i): 'nan' for i in range(2, 9)}  # it has recovered by the time it is looked at, or it is looked at in time
    assert engine_worker.run(tmp_path/'c', plan=dict(patience=8, log_every=100), at=bad) == 'done'
    with pytest.raises(ValueError, match='Stopped after 8 steps: the last 6'):
        engine_worker.run(tmp_path/'d', plan=dict(patience=4, log_every=100), at=bad)
    for _ in range(2):  # it remembers across restarts
        try: engine_worker.run(tmp_path/'e', plan=dict(patience=6), at={'each': 'nan', '3': 'nan_and_term'})
        except ValueError as e: assert 'Stopped after 6 steps: the last 6' in str(e)
    assert engine_worker.run(tmp_path/'f', plan=dict(patience=4), at=bad | {'3': 'nan_and_term'}) == 'stopped'  # and saves before it complains


def test_two_processes(tmp_path):
    "They agree on the weights, resume exactly, and say once what is wrong."
    for n in (2, 3):  # with three, the order of a sum of gradients begins to matter
        for folder, steps in (('whole', 8), ('cut', 5), ('cut', 8)):
            done = torchrun(tmp_path/folder/str(n), dict(plan=dict(steps=steps, batch_size=12)), n=n)
            assert done.returncode == 0, done.stderr
        assert same(tmp_path/'whole'/str(n), tmp_path/'cut'/str(n))
    assert len({(tmp_path/'whole'/'3'/f'rank{r}').read_text() for r in range(3)}) == 1
    done = torchrun(tmp_path/'whole'/'2', dict(plan=dict(steps=9, seed=5, batch_size=12)))
    assert done.returncode != 0 and done.stderr.count('seed was 0 and is 5') == 1  # not once a rank


def test_another_number_of_processes(tmp_path):
    "Two processes, then one, then two: it says what it cannot keep; every step has the pictures that one process alone would have."
    spy = {'each': 'spy'}
    engine_worker.run(tmp_path/'alone', plan=dict(steps=6, flip=True), at=spy)
    for n, steps in ((2, 2), (1, 4), (2, 6)):
        done = torchrun(tmp_path/'many', dict(plan=dict(steps=steps, flip=True), at=spy), n=n)
        assert done.returncode == 0, done.stderr
    assert [(line['from_step'], line['processes']) for line in read_log(tmp_path/'many', 'start')] == [(0, 2), (2, 1), (4, 2)]
    said = [line['text'] for line in read_log(tmp_path/'many', 'warning')]
    assert len(said) == 2 and 'had 2 processes and has 1' in said[0] and 'noise and dropped labels do not' in said[0]
    def seen(run):
        lines = [json.loads(line) for p in sorted((tmp_path/run).glob('seen*')) for line in p.read_text().splitlines()]
        return {step: sum((pictures for s, pictures in lines if s == step), []) for step in range(6)}
    assert seen('alone') == seen('many') and len({str(v) for v in seen('alone').values()}) == 6


def test_an_error_of_one_rank_is_said(tmp_path):
    "What one rank alone finds wrong is not lost, and ends the job."
    done = torchrun(tmp_path/'one', dict(plan=dict(steps=6), at={'2': 'refuse'}, only_rank=1))
    assert done.returncode != 0 and 'rank 1 does not like it' in done.stderr
    done = torchrun(tmp_path/'other', dict(plan=dict(steps=6, save_every=2), at={'each': 'bad_each'}))
    assert done.returncode != 0 and 'the pictures could not be drawn' in done.stderr and 'RuntimeError' in done.stderr


def test_a_torn_line_of_the_log_spoils_no_other(tmp_path):
    engine_worker.run(tmp_path, plan=dict(steps=3))
    with open(tmp_path/'log.jsonl', 'ab') as f: f.write(b'{"event": "step", "st\xc3')
    engine_worker.run(tmp_path, plan=dict(steps=6))
    assert [line['step'] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert [line['from_step'] for line in read_log(tmp_path, 'start')] == [0, 3]


def test_what_a_run_leaves_to_look_at(tmp_path):
    "TensorBoard's file has the numbers of the log, once each; the same pictures at every checkpoint; no more than that."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    net = UNet(DIGITS)
    for steps in (4, 6):
        engine = Engine(tmp_path, net, Plan(steps=steps, batch_size=8, save_every=2, log_every=1, warm=1, flip=False), World())
        def draw(net, noise, label): return noise(torch.empty(len(label), 1, 8, 8)) + net.out[2].weight.sum()
        def loss(denoiser, x, label, note): return denoising_loss(denoiser, cosine, x, label, note=note)
        assert keep_training(engine, loss, engine_worker.DATA, album(tmp_path, draw, torch.arange(5), 3)) == 'done'
    seen = EventAccumulator(str(tmp_path/'tensorboard')).Reload().Scalars('loss')
    assert [(e.step, np.float32(e.value)) for e in seen] == [(line['step'], np.float32(line['loss'])) for line in read_log(tmp_path)]
    pages = [np.asarray(Image.open(p)) for p in sorted((tmp_path/'samples').iterdir())]
    assert [p.name for p in sorted((tmp_path/'samples').iterdir())] == [f'step_{s:09}.png' for s in (2, 4, 6)]
    assert pages[0].shape == (16, 24) and (pages[0][8:, 16:] == 255).all() and (pages[0] != pages[1]).any()


def test_one_of_two_dies(tmp_path):
    "The job ends instead of hanging; with a restart it goes on and ends where it should."
    assert torchrun(tmp_path/'whole', dict(plan=dict(steps=8))).returncode == 0
    done = torchrun(tmp_path/'died', dict(plan=dict(steps=8), at={'5': 'die_once'}, only_rank=1))
    assert done.returncode != 0
    done = torchrun(tmp_path/'again', dict(plan=dict(steps=8), at={'5': 'die_once'}, only_rank=1), '--max-restarts=1')
    assert done.returncode == 0, done.stderr
    assert same(tmp_path/'whole', tmp_path/'again')


def test_pictures_depend_on_seed_and_number_alone(tmp_path):
    torch.set_num_threads(1)
    net, labels = UNet(DIGITS).eval(), np.arange(13) % 10
    load(ROOT/'data'/'checkpoints'/'digits.safetensors', net)
    asked = []
    def draw(noise, label, stop=99):
        asked.append(len(label))
        if len(asked) == stop: raise KeyboardInterrupt
        z = noise(torch.empty(len(label), 1, 8, 8))
        return last(sample(clipped(classifier_free(net, .5)), z, label, cosine(torch.linspace(1, 0, 9)), partial(ancestral, mix=.3, noise=noise)))
    for batch in (1, 5, 13): generate(tmp_path/str(batch), draw, labels, (1, 8, 8), World(), MADE, batch_size=batch)
    sets = [open_images(tmp_path/str(batch))[0] for batch in (1, 5, 13)]
    assert (sets[0] == sets[1]).all() and (sets[0] == sets[2]).all() and (open_images(tmp_path/'5')[1] == labels).all()
    assert len({s.tobytes() for s in sets[0]}) == 13
    asked.clear()
    with pytest.raises(KeyboardInterrupt): generate(tmp_path/'cut', partial(draw, stop=2), labels, (1, 8, 8), World(), MADE, batch_size=5)
    with pytest.raises(ValueError, match='no notes.json'): open_images(tmp_path/'cut')
    asked.clear()
    generate(tmp_path/'cut', draw, labels, (1, 8, 8), World(), MADE, batch_size=4)
    assert asked == [4, 4] and (open_images(tmp_path/'cut')[0] == sets[0]).all()  # the first five were there
    (tmp_path/'room').mkdir()  # killed while room was being made
    (tmp_path/'room'/'asked.json').write_bytes((tmp_path/'cut'/'asked.json').read_bytes())
    (tmp_path/'room'/'images.npy').write_bytes(b'torn')
    generate(tmp_path/'room', draw, labels, (1, 8, 8), World(), MADE, batch_size=13)
    assert (open_images(tmp_path/'room')[0] == sets[0]).all()
    for wrong in (dict(batch_size=0), dict(labels=labels + .5), dict(shape=(1, -8, 8)), dict(seed=-1)):
        with pytest.raises(ValueError, match='must be|give a'):
            generate(tmp_path/'new', draw, **dict(labels=labels, shape=(1, 8, 8), world=World(), made=MADE, batch_size=4) | wrong)
    assert not (tmp_path/'new').exists()
    with pytest.raises(ValueError, match='draw returned'): generate(tmp_path/'flat', lambda noise, label: torch.zeros(1, 8, 8), labels, (1, 8, 8), World(), MADE)
    (tmp_path/'flat'/'images.npy').write_bytes((tmp_path/'flat'/'images.npy').read_bytes()[:300])
    with pytest.raises(ValueError, match='is damaged'): generate(tmp_path/'flat', draw, labels, (1, 8, 8), World(), MADE)
    for other in (dict(seed=1), dict(labels=labels[::-1]), dict(made=MADE | dict(w=1.))):
        with pytest.raises(ValueError, match='holds other pictures'):
            generate(tmp_path/'cut', draw, **dict(labels=labels, shape=(1, 8, 8), world=World(), made=MADE, batch_size=4) | other)
