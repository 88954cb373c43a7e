"Training that is stopped, killed, starved and spoilt, and goes on as if nothing had happened."
import json
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from engine_worker import DATA, TINY, apart, ends, paper_loss, run, start, tensors_of, trained
from PIL import Image
from torch.nn.utils.parametrizations import spectral_norm

from cfg_lessons.checkpoints import (TrainState, _digests, checkpoints, fingerprint,
                                     open_checkpoint, read_tensors, verify)
from cfg_lessons.config import TrainConfig
from cfg_lessons.engine import cache_on_device, train_batches
from cfg_lessons.images import batches, from_uint8
from cfg_lessons.logs import read_log, sample_grid, validation_loss
from cfg_lessons.parallel import SkipNonfinite, blocks, microbatched, parallelize, rank_zero
from cfg_lessons.training import derive_seed
from cfg_lessons.unet import UNet

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope='module')
def straight(tmp_path_factory):
    "Twelve steps without interruption."
    folder = tmp_path_factory.mktemp('straight')
    assert run(folder) == 'done'
    return folder


# Resuming

@pytest.mark.parametrize('stop', [1, 5, 9])
def test_exact_resume(straight, tmp_path, stop):
    "Order, mirroring, noise, dropped labels, dropout, averages, optimizer, learning rate."
    assert run(tmp_path, dict(steps=stop)) == 'done'
    assert run(tmp_path) == 'done'
    assert apart(straight, tmp_path) == 0
    assert [line['step'] for line in read_log(tmp_path)] == list(range(1, 13))


@pytest.mark.parametrize('option', [
    dict(channels_last=True), dict(bf16=True, activation_checkpointing=True),
    dict(microbatch=4, clip=0.), dict(ema_decay=(.9, .999))], ids=lambda o: ' '.join(o))
def test_exact_resume_with_switches(tmp_path, option):
    for folder, stops in (('straight', (8,)), ('cut', (3, 8))):
        for steps in stops: run(tmp_path/folder, dict(steps=steps) | option)
    assert apart(tmp_path/'straight', tmp_path/'cut') == 0


@pytest.mark.parametrize('n, option', [
    (2, {}), (3, {}), (2, dict(fsdp=True)), (2, dict(fsdp=True, microbatch=4)),
    (2, dict(activation_checkpointing=True, bf16=True))], ids=str)
def test_exact_resume_of_ranks(tmp_path, n, option):
    "With three ranks the order of a sum begins to matter."
    for folder, stops in (('straight', (8,)), ('cut', (5, 8))):
        for steps in stops: trained(n, tmp_path/folder, dict(steps=steps, batch_size=24) | option)
    assert apart(tmp_path/'straight', tmp_path/'cut') == 0


def test_one_rank_two_ranks_one_rank(tmp_path):
    "With a fixed microbatch the number of ranks changes nothing, to the last bit."
    micro = dict(microbatch=8)
    trained(1, tmp_path/'alone', micro)
    for n, steps in ((1, 4), (2, 8), (1, 12)):
        trained(n, tmp_path/'many', micro | dict(steps=steps))
    assert apart(tmp_path/'alone', tmp_path/'many') == 0


def test_ddp_fsdp_one_process(tmp_path):
    """Each goes on from the other's checkpoint; sharding changes the order of sums, so the last
    digits."""
    one = dict(microbatch=8, warmup_steps=100)
    trained(2, tmp_path/'ddp', one)
    for n, steps, fsdp in ((2, 4, False), (2, 8, True), (1, 12, False)):
        trained(n, tmp_path/'mixed', one | dict(steps=steps, fsdp=fsdp))
    assert apart(tmp_path/'ddp', tmp_path/'mixed') < 1e-4


def test_other_ranks_change_noise_and_say_so(tmp_path):
    "Without a fixed microbatch; every step still has the pictures that one process would have."
    run(tmp_path/'alone', dict(steps=6), at={'each': 'spy'})
    for n, steps in ((2, 2), (1, 4), (2, 6)):
        trained(n, tmp_path/'many', dict(steps=steps), at={'each': 'spy'})
    said = [line['text'] for line in read_log(tmp_path/'many', 'warning')]
    assert len(said) == 2 and 'had 2 microbatches and has 1' in said[0]
    assert 'dropout change' in said[0]
    def pictures(run):
        lines = [json.loads(line) for p in (tmp_path/run).glob('seen*') for line in open(p)]
        return sorted(str(picture) for line in lines for picture in line)
    assert pictures('alone') == pictures('many') and len(pictures('alone')) == 6*16


class Spectral(UNet):
    "A network whose buffers change in forward."
    def __init__(self, config):
        super().__init__(config)
        spectral_norm(self.middle_block[0].out_layers[3])


@pytest.mark.parametrize('n', [1, 2])
def test_buffers_that_change_in_forward(tmp_path, n):
    for folder, stops in (('straight', (8,)), ('cut', (3, 8))):
        for steps in stops:
            trained(n, tmp_path/folder, dict(steps=steps), make=lambda: Spectral(TINY))
    assert apart(tmp_path/'straight', tmp_path/'cut') == 0


class Unused(UNet):
    "A network with a parameter that the loss does not reach."
    def __init__(self, config):
        super().__init__(config)
        self.spare = torch.nn.Linear(3, 3)


@pytest.mark.parametrize('n, option', [(1, {}), (2, dict(fsdp=True))], ids=str)
def test_parameters_without_gradient(tmp_path, n, option):
    for folder, stops in (('straight', (8,)), ('cut', (3, 8))):
        for steps in stops:
            trained(n, tmp_path/folder, dict(steps=steps) | option, make=lambda: Unused(TINY))
    assert apart(tmp_path/'straight', tmp_path/'cut') == 0


def test_parameters_without_gradient_under_ddp_are_a_sentence(tmp_path, capfd):
    assert ends(start(2, run, tmp_path, make=lambda: Unused(TINY))) == [1, 1]
    assert 'got no gradient, which DDP cannot have' in capfd.readouterr().err


class Counting(UNet):
    "Buffers that depend on the data, so on the rank, and that a state dict leaves out."
    def __init__(self, config, persistent):
        super().__init__(config)
        self.register_buffer('seen', torch.zeros(()), persistent=persistent)
    def forward(self, z, logsnr, label):
        self.seen = self.seen.lerp(z.mean(), .1)
        return super().forward(z, logsnr, label) + self.seen


@pytest.mark.parametrize('n, option, persistent', [(1, {}, False), (2, {}, True),
                                                   (2, dict(fsdp=True), True),
                                                   (2, dict(fsdp=True), False)], ids=str)
def test_buffers_that_depend_on_the_data(tmp_path, n, option, persistent):
    for folder, stops in (('straight', (8,)), ('cut', (3, 8))):
        for steps in stops:
            trained(n, tmp_path/folder, dict(steps=steps) | option,
                    make=lambda: Counting(TINY, persistent))
    assert apart(tmp_path/'straight', tmp_path/'cut') == 0


# The mathematics, against something else

def test_average_by_hand(tmp_path):
    "The EMA after steps 1, 2 and 10, computed from the stored weights in ten lines."
    run(tmp_path, dict(steps=10, save_every=1, keep=0, ema_decay=(.5, .9999)))
    torch.manual_seed(0)
    first = {k: p.detach() for k, p in UNet(TINY).named_parameters()}
    want = {d: first for d in (.5, .9999)}
    for step, path in enumerate(reversed(checkpoints(tmp_path)), 1):
        found = tensors_of(path)
        for d in want:
            decay = min(d, (1 + step)/(10 + step))
            want[d] = {k: decay*want[d][k] + (1 - decay)*found[f'net.{k}'] for k in first}
            if step in (1, 2, 10):
                for k in first: torch.testing.assert_close(found[f'ema_{d:g}.{k}'], want[d][k])
    assert step == 10


def test_mirroring_by_pixels(tmp_path):
    """Each picture of each rank is the original or its mirror image; all ranks toss coins of their
    own."""
    trained(2, tmp_path, dict(steps=4, batch_size=32), at={'each': 'spy'})
    turned = []
    originals = batches(*DATA, 32)
    seen = [[json.loads(line) for line in open(tmp_path/f'seen{r}')] for r in (0, 1)]
    for step in range(4):
        x, _ = next(originals)
        for r in (0, 1):
            for want, got in zip(from_uint8(x)[16*r:16*r + 16], torch.tensor(seen[r][step])):
                assert want.equal(got) or want.flip(-1).equal(got)
                turned.append((step, r, not want.equal(got)))
    coins = {r: [t for _, rank, t in turned if rank == r] for r in (0, 1)}
    assert coins[0] != coins[1] and .3 < np.mean(coins[0] + coins[1]) < .7


@pytest.mark.parametrize('config', [dict(microbatch=4), dict(microbatch=2)], ids=str)
def test_accumulation_is_one_large_batch(config):
    "For a loss without chance, the gradient of microbatches is that of the whole batch."
    torch.manual_seed(0)
    net, (x, y) = torch.nn.Linear(5, 3), (torch.randn(8, 5), torch.randn(8, 3))
    def loss(x, y): return (net(x) - y).pow(2).mean()
    microbatched(loss, net, TrainConfig(1, 8, **config))(0, x, y).backward()
    (whole,) = torch.autograd.grad(loss(x, y), net.weight)
    torch.testing.assert_close(net.weight.grad, whole)


def without_chance(folder, config):
    def loss(denoiser, x, label, note): return denoiser(x, torch.zeros(len(x)), label).pow(2).mean()
    def make():
        net = UNet(replace(TINY, dropout=0.))
        torch.nn.init.normal_(net.out[2].weight, std=.1)  # it begins at zero, and no gradient flows
        return net
    run(folder, dict(steps=1, flip=False) | config, loss=loss, make=make)


@pytest.mark.parametrize('n, option', [(2, dict(fsdp=True)), (2, {}), (4, dict(fsdp=True))],
                         ids=str)
def test_ranks_are_one_process(tmp_path, n, option):
    "In a step without chance the gradient of two or four ranks is that of one process."
    without_chance(tmp_path/'one', {})
    assert ends(start(n, without_chance, tmp_path/'many', option)) == [0]*n
    one, many = (tensors_of(checkpoints(tmp_path/k)[0]) for k in ('one', 'many'))
    moments = [k for k in one if k.endswith('exp_avg')]
    assert len(moments) > 30 and any(one[k].abs().max() > 1e-3 for k in moments)
    for k in moments: torch.testing.assert_close(many[k], one[k], atol=1e-7, rtol=1e-4)


def test_noise_of_microbatches_differs(tmp_path):
    "Each rank and each microbatch draws noise of its own, a function of (seed, step, microbatch)."
    drawn = []
    def loss(x, label):
        return drawn.append(torch.randn(3)) or x.mean()*torch.ones((), requires_grad=True)
    f = microbatched(loss, torch.nn.Linear(1, 1), TrainConfig(1, 8, microbatch=2, seed=5))
    f(7, torch.zeros(8, 1), torch.zeros(8))
    for j, noise in enumerate(drawn):
        torch.manual_seed(derive_seed(5, 7, j))
        assert noise.equal(torch.randn(3))
    assert len({str(n) for n in drawn}) == 4


# Steps that are not finite

@pytest.mark.parametrize('deed', ['nan', 'inf'])
def test_not_finite_is_skipped_and_counted(tmp_path, deed):
    run(tmp_path, dict(save_every=1, keep=0), at={'4': deed, '7': deed})
    assert [line['skipped'] for line in read_log(tmp_path)] == [0]*4 + [1]*3 + [2]*5
    saved = [tensors_of(p) for p in reversed(checkpoints(tmp_path))]
    kept = lambda i: all(saved[i][k].equal(saved[i - 1][k]) for k in saved[i] if k[:4] == 'net.')
    assert [kept(i) for i in range(1, 12)] == [i in (4, 7) for i in range(1, 12)]


def test_adam_of_pytorch_without_the_bad_step():
    "A skipped step leaves the optimizer as if it had never been."
    nets, opts = zip(*[(n := torch.nn.Linear(3, 2),
                        torch.optim.AdamW(n.parameters(), .1, fused=True)) for _ in range(2)])
    nets[1].load_state_dict(nets[0].state_dict())
    careful = SkipNonfinite(opts[0], clip=0.)
    for i in range(6):
        x = torch.full((4, 3), math.nan if i == 2 else float(i))
        for net, opt in zip(nets, (careful, opts[1])):
            opt.zero_grad()
            net(x).pow(2).mean().backward()
            if opt is careful or i != 2: opt.step()
    assert nets[0].weight.equal(nets[1].weight)
    assert (careful.skipped, careful.in_a_row) == (1, 0)


def test_a_norm_that_overflows_is_skipped(tmp_path):
    "Each gradient is finite, but not the sum of their squares: neither weights nor moments move."
    net = torch.nn.Linear(2, 2)
    opt = SkipNonfinite(torch.optim.AdamW(net.parameters(), .1, fused=True), 1.)
    for scale in (1., 1e20):
        before = net.weight.detach().clone()
        opt.zero_grad()
        (scale*net(torch.ones(1, 2))).sum().backward()
        opt.step()
    assert net.weight.equal(before) and opt.skipped == 1
    assert opt.opt.state[net.weight]['step'] == 1


def test_too_many_in_a_row_end_the_run(tmp_path):
    words = (
        r'the last 3 had .* not finite and were skipped; .* rank 0 \(last in step 6, counted from '
        r'0\)\. .*step_000000007')
    with pytest.raises(ValueError, match=words):
        run(tmp_path, dict(max_nonfinite=3, save_every=1), at={str(i): 'nan' for i in (4, 5, 6)})
    assert not verify(checkpoints(tmp_path)[0])


def test_the_count_survives_a_restart_and_is_saved_first(tmp_path):
    bad = {'each': 'nan', '3': 'nan_and_term'}
    assert run(tmp_path, dict(max_nonfinite=6), at=bad) == 'stopped'
    with pytest.raises(ValueError, match='Stopped after 6 steps: the last 6'):
        run(tmp_path, dict(max_nonfinite=6), at=bad)


@pytest.mark.parametrize('fsdp', [False, True])
def test_nan_on_one_rank_is_skipped_by_all(tmp_path, fsdp):
    bad = dict(at={'2': 'nan', '5': 'nan'}, only_rank=1)
    trained(2, tmp_path/'straight', dict(steps=8, fsdp=fsdp), **bad)
    for steps in (3, 8): trained(2, tmp_path/'cut', dict(steps=steps, fsdp=fsdp), **bad)
    assert apart(tmp_path/'straight', tmp_path/'cut') == 0
    assert [line['skipped'] for line in read_log(tmp_path/'cut')] == [0, 0, 1, 1, 1, 2, 2, 2]


# Interruptions

def test_a_signal_ends_it_in_good_order(straight, tmp_path):
    assert run(tmp_path, at={'4': 'term'}) == 'stopped'
    assert checkpoints(tmp_path)[0].name == 'step_000000005'
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert run(tmp_path) == 'done' and apart(straight, tmp_path) == 0


def test_a_signal_to_one_rank_stops_all(tmp_path):
    assert ends(start(2, run, tmp_path, at={'2': 'term'}, only_rank=1)) == [0, 0]
    assert checkpoints(tmp_path)[0].name == 'step_000000003'


def test_killed_twenty_times(tmp_path):
    "kill -9 at random moments: nothing torn, nothing lost, and the end is the undisturbed one."
    config, moment = dict(steps=300, save_every=2), random.Random(0)
    run(tmp_path/'straight', config)
    folder, killed, furthest = tmp_path/'killed', 0, 0
    while killed < 20:
        pid, = start(1, run, folder, config, at={'each': 'slow'})
        time.sleep(moment.uniform(.2, .8))
        os.kill(pid, signal.SIGKILL)
        killed += ends([pid]) == [-signal.SIGKILL]
        found = [int(p.name[5:]) for p in checkpoints(folder)]
        assert not any(map(verify, checkpoints(folder))) and max(found, default=0) >= furthest
        furthest = max(found, default=0)
        assert furthest < 300, 'the run ended before it was killed often enough'
    run(folder, config)
    assert apart(tmp_path/'straight', folder) == 0
    assert not list((folder/'checkpoints').glob('*.part'))


def killed_at(n, folder):
    "Train, and be killed just before the n-th call of a function that changes files."
    calls = []
    for module, names in ((os, ('replace', 'rename', 'fsync', 'unlink', 'mkdir', 'rmdir')),):
        for name in names:
            def call(*args, real=getattr(module, name), **kwargs):
                calls.append(1)
                if len(calls) == n: os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            setattr(module, name, call)
    run(folder, dict(steps=6, keep=1))


def test_killed_before_each_file_operation(tmp_path):
    run(tmp_path/'straight', dict(steps=6, keep=1))
    for n in range(1, 400, 3):  # each third; all of them are tried by hand
        folder = tmp_path/str(n)
        code, = ends(start(1, killed_at, n, folder))
        assert not any(map(verify, checkpoints(folder)))
        if code == 0: break
        run(folder, dict(steps=6, keep=1))
        assert apart(tmp_path/'straight', folder) == 0
        assert [p.name for p in (folder/'checkpoints').iterdir()] == ['step_000000006']
        shutil.rmtree(folder)
    assert n > 30


def test_one_of_two_ranks_dies(tmp_path):
    "Under torchrun the job ends instead of hanging; with a restart it goes on to the right end."
    def torchrun(folder, *words):
        options = json.dumps(dict(config=dict(steps=8), at={'5': 'die_once'}, only_rank=1))
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', *words,
                   '--nproc-per-node=2', ROOT/'tests'/'engine_worker.py', folder, options]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    trained(2, tmp_path/'whole', dict(steps=8))
    assert torchrun(tmp_path/'died').returncode != 0
    done = torchrun(tmp_path/'again', '--max-restarts=1')
    assert done.returncode == 0, done.stderr
    assert apart(tmp_path/'whole', tmp_path/'again') == 0


def test_what_the_disk_does_not_let_go_is_not_taken_in(straight, tmp_path, monkeypatch):
    "Folders that cannot be removed: no file of theirs is in a checkpoint, and they stop nothing."
    monkeypatch.setattr('cfg_lessons.checkpoints.rmtree', lambda *_, **__: None)
    for step in (3, 6):
        (tmp_path/'checkpoints'/f'step_{step:09}.part').mkdir(parents=True)
        (tmp_path/'checkpoints'/f'step_{step:09}.part'/'shard-00002-old.safetensors').touch()
    run(tmp_path, dict(steps=6))
    assert [len(list(p.iterdir())) for p in checkpoints(tmp_path)] == [3, 3]
    for step in (3, 6):
        (tmp_path/'checkpoints'/f'step_{step:09}.part'/'x').mkdir(parents=True, exist_ok=True)
    assert run(tmp_path, dict(keep=1)) == 'done' and apart(straight, tmp_path) == 0


def test_an_older_checkpoint_that_cannot_be_removed_stops_nothing(tmp_path, straight, monkeypatch):
    "One too many does no harm: the new one is not called unwritten, and later calls go on."
    rename = Path.rename
    def refuse(self, target):
        if self.name.startswith('step_') and str(target).endswith('.part'):
            raise PermissionError(13, 'no')
        return rename(self, target)
    monkeypatch.setattr(Path, 'rename', refuse)
    assert run(tmp_path, dict(steps=6, keep=1)) == 'done' and len(checkpoints(tmp_path)) == 2
    assert run(tmp_path, dict(keep=1)) == 'done' and apart(straight, tmp_path) == 0


def test_ranks_that_share_no_disk_are_told_so(tmp_path, capfd):
    "Each would write its part of a checkpoint to a disk of its own, and none could be read again."
    def apart(): run(tmp_path/os.environ['RANK'])
    assert ends(start(2, apart)) == [1, 1]
    assert 'it must be on a disk that all share' in capfd.readouterr().err
    assert not checkpoints(tmp_path/'0')


def test_a_second_job_is_refused_and_changes_nothing(tmp_path):
    "And when the first is gone, even by kill -9, the folder is free."
    pid, = start(1, run, tmp_path, dict(steps=1000), at={'each': 'slow'})
    while not checkpoints(tmp_path): time.sleep(.05)
    os.kill(pid, signal.SIGSTOP)
    before = {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()}
    with pytest.raises(ValueError, match='Another program is at work in'):
        run(tmp_path, dict(steps=99))
    assert {p: p.read_bytes() for p in tmp_path.rglob('*') if p.is_file()} == before
    os.kill(pid, signal.SIGKILL)
    ends([pid])
    assert run(tmp_path, dict(steps=int(checkpoints(tmp_path)[0].name[5:]) + 1)) == 'done'


def test_a_folder_removed_while_it_trains(straight, tmp_path):
    "It goes on, saves what it has, and can be resumed."
    pid, = start(1, run, tmp_path/'run', dict(steps=60), at={'each': 'slow'})
    while not checkpoints(tmp_path/'run'): time.sleep(.05)
    shutil.rmtree(tmp_path/'run')
    assert ends([pid]) == [0]
    run(tmp_path/'whole', dict(steps=62))
    run(tmp_path/'run', dict(steps=62))
    assert apart(tmp_path/'whole', tmp_path/'run') == 0


# Damage

@pytest.mark.parametrize('deed', ['cut', 'altered', 'gone'])
@pytest.mark.parametrize('name', ['shard*', 'manifest.json', 'SHA256SUMS'])
def test_a_damaged_checkpoint_is_passed_over(straight, tmp_path, capsys, name, deed):
    run(tmp_path, dict(steps=9))
    path, = checkpoints(tmp_path)[0].glob(name)
    data = path.read_bytes()
    if deed == 'cut': path.write_bytes(data[:len(data)//2])
    if deed == 'altered': path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    if deed == 'gone': path.unlink()
    assert run(tmp_path) == 'done'
    assert 'is damaged' in capsys.readouterr().err
    assert [line['from_step'] for line in read_log(tmp_path, 'start')] == [0, 6]
    assert apart(straight, tmp_path) == 0 and not any(map(verify, checkpoints(tmp_path)))


def test_nothing_valid_is_said_and_left_alone(tmp_path):
    run(tmp_path, dict(steps=3))
    next(checkpoints(tmp_path)[0].glob('shard*')).write_bytes(b'')
    with pytest.raises(ValueError, match='No checkpoint in .* is valid'): run(tmp_path)
    assert [p.name for p in checkpoints(tmp_path)] == ['step_000000003']


def test_only_checkpoints_are_taken_for_checkpoints(tmp_path):
    run(tmp_path, dict(steps=6))
    folder = tmp_path/'checkpoints'
    shutil.copytree(folder/'step_000000003', folder/'step_mybackup1')
    (folder/'step_000000006').rename(folder/'step_000000009')
    assert verify(folder/'step_000000009') == 'it is of step 6'
    run(tmp_path, dict(steps=6, keep=1))
    assert [p.name[:7] for p in sorted(folder.iterdir())] == ['damaged', 'step_00', 'step_my']


@pytest.mark.parametrize('text', ['', '[]', '['*100_000, '{"step": "3"}', '{"step": 3}', '7'])
def test_a_manifest_that_is_none(tmp_path, text):
    "Also with a digest that fits: words, and an older checkpoint, instead of a traceback."
    run(tmp_path, dict(steps=6))
    path = checkpoints(tmp_path)[0]
    (path/'manifest.json').write_text(text)
    (path/'SHA256SUMS').write_text(_digests(path))
    assert verify(path)
    assert open_checkpoint(tmp_path)[0].name == 'step_000000003'


def test_odd_files_in_a_checkpoint_hang_nothing(tmp_path):
    run(tmp_path, dict(steps=3))
    path = checkpoints(tmp_path)[0]
    os.mkfifo(path/'fifo')
    assert 'is no ordinary file' in verify(path)


def test_digests_are_those_of_sha256sum(straight):
    done = subprocess.run(['sha256sum', '--check', 'SHA256SUMS'], cwd=checkpoints(straight)[0])
    assert done.returncode == 0


def test_no_pickle_is_written_or_read(straight, tmp_path):
    "All tensors are safetensors; a pickle under that name runs nothing and is refused."
    names = {p.suffix for p in checkpoints(straight)[0].iterdir()}
    assert names == {'.safetensors', '.json', ''}
    run(tmp_path, dict(steps=3))
    shard = next(checkpoints(tmp_path)[0].glob('shard*'))
    shard.write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    sums = checkpoints(tmp_path)[0]/'SHA256SUMS'
    sums.write_text(_digests(sums.parent))
    with pytest.raises(ValueError, match='is of another network|cannot be read'): run(tmp_path)
    assert not Path('pwned').exists()


def test_no_space(straight, tmp_path, capfd):
    "A checkpoint that does not fit: one sentence, and the one before is as it was."
    run(tmp_path, dict(steps=3))
    def cramped():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        run(tmp_path)
    assert ends(start(1, cramped)) == [1]
    said = [line for line in capfd.readouterr().err.splitlines() if 'could not be written' in line]
    assert len(said) == 1 and 'step_000000006' in said[0]
    assert [p.name for p in (tmp_path/'checkpoints').iterdir()] == ['step_000000003']
    assert run(tmp_path) == 'done' and apart(straight, tmp_path) == 0


# What is refused, and what may change

def test_other_settings_are_refused_by_name(tmp_path):
    run(tmp_path, dict(steps=3), recipe=dict(p_uncond=.1))
    with pytest.raises(ValueError, match='seed was 0 and is 1'):
        run(tmp_path, dict(seed=1), recipe=dict(p_uncond=.1))
    with pytest.raises(ValueError, match='p_uncond was 0.1 and is 0.2'):
        run(tmp_path, recipe=dict(p_uncond=.2))
    run(tmp_path, dict(log_every=2, save_every=5, activation_checkpointing=True, microbatch=8,
                       gpu_cache_fraction=0.), recipe=dict(p_uncond=.1))


def test_settings_bind_with_the_first_checkpoint_not_before(tmp_path):
    "A first call that ran out of memory may be mended by any change."
    with pytest.raises(MemoryError): run(tmp_path, dict(bf16=True), at={'0': 'no_memory'})
    assert run(tmp_path, dict(bf16=False, seed=3)) == 'done'


def test_a_disk_that_fails_while_a_checkpoint_is_read_is_a_sentence(straight, caplog, monkeypatch):
    "PyTorch's own words and traceback are not written besides."
    import safetensors
    opened, real, path = [], safetensors.safe_open, checkpoints(straight)[0]
    wanted, shards = tensors_of(path), len([*path.glob('*.safetensors')])
    def fails(*given, **how):
        opened.append(given)
        if len(opened) > shards: raise OSError(5, 'Input/output error')
        return real(*given, **how)
    monkeypatch.setattr(safetensors, 'safe_open', fails)
    with pytest.raises(OSError, match='could not be read') as e: read_tensors(path, wanted)
    assert str(e.value).count('\n') == 0 and not any(r.name == 'root' for r in caplog.records)


def test_changed_data_are_noticed(tmp_path):
    run(tmp_path, dict(steps=3))
    x, y = DATA
    other = x.copy()
    other[700, 0, 3, 3] ^= 1
    for data in ((other, y), (x, (y + 1) % 10)):
        with pytest.raises(ValueError, match='sha256 was'): run(tmp_path, data=data)


def test_out_of_memory_is_a_sentence(tmp_path):
    words = 'smaller microbatch, with activation_checkpointing, or with gpu_cache_fraction=0'
    with pytest.raises(MemoryError, match=words): run(tmp_path, at={'4': 'no_memory'})
    assert run(tmp_path, dict(microbatch=4)) == 'done'


def test_out_of_memory_gives_back_what_was_held(tmp_path, monkeypatch):
    "Also where the error is kept, as a notebook keeps the last one."
    class Large(torch.Tensor): pass
    held = []
    real = TrainState.__init__
    def noted(state, *given):
        held.append(weakref.ref(state))
        real(state, *given)
    monkeypatch.setattr(TrainState, '__init__', noted)
    def loss(denoiser, x, label, note):
        large = torch.zeros(8).as_subclass(Large)
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError('CUDA out of memory.')
    with pytest.raises(MemoryError) as kept: run(tmp_path, loss=loss)
    assert len(held) == 2
    assert [thing() for thing in held] == [None, None]


def test_a_processor_without_memory_is_told_as_a_gpu_is(tmp_path):
    def loss(denoiser, x, label, note): torch.empty(2**50)
    with pytest.raises(MemoryError, match='^Out of memory .*smaller microbatch'):
        run(tmp_path, loss=loss)


def test_two_trainings_of_one_network_compute_blocks_twice_and_not_thrice(tmp_path):
    "Activation checkpointing wraps a block once, and the next training unwraps it."
    net, calls = UNet(TINY), []
    block = blocks(net)[1]
    count = type(block).forward
    def forward(self, *given):
        if self is block: calls.append(1)
        return count(self, *given)
    with mock.patch.object(type(block), 'forward', forward):
        for i, on in enumerate((True, True, False)):
            calls.clear()
            run(tmp_path/str(i), dict(steps=2, activation_checkpointing=on), make=lambda: net)
            assert len(calls) == (4 if on else 2)


@pytest.mark.parametrize('wrong', [
    dict(lr=-1.), dict(warmup_steps=0), dict(seed=-1), dict(seed=2**70), dict(steps=12.5),
    dict(batch_size='16'), dict(clip=math.nan), dict(microbatch=-1), dict(ema_decay=(1.,)),
    dict(ema_decay=([.9],)), dict(flip='no'), dict(bf16=1), dict(compile=None),
    dict(ema_decay=()), dict(ema_decay=.9), dict(ema_decay=(.9, .9)), dict(ema_decay=('a',)),
    dict(save_minutes=math.inf), dict(peak_flops='x'), dict(gpu_cache_fraction=50)], ids=str)
def test_a_wrong_config_leaves_no_trace(tmp_path, wrong):
    with pytest.raises(ValueError, match=f'{[*wrong][0]} is .*; it must be'):
        run(tmp_path/'x', wrong)
    assert not (tmp_path/'x').exists()


@pytest.mark.parametrize('net, config, words', [
    (torch.nn.Sequential(torch.nn.BatchNorm2d(1)), {}, 'batch norm'),
    (torch.nn.Linear(2, 2).double(), {}, 'must be float32'),
    (torch.nn.Linear(2, 2), dict(activation_checkpointing=True), 'needs blocks in a ModuleList'),
    (torch.nn.Linear(2, 2), dict(batch_size=16, microbatch=5), 'must be a multiple of 5')], ids=str)
def test_a_network_that_cannot_be_trained_is_refused(tmp_path, net, config, words):
    with pytest.raises(ValueError, match=words): run(tmp_path/'x', config, make=lambda: net)
    assert not (tmp_path/'x').exists()


def test_another_network_in_the_same_folder(tmp_path):
    run(tmp_path, dict(steps=3))
    wider = replace(TINY, width=64, head_width=64)
    with pytest.raises(ValueError, match='is of another network: net.* instead of'):
        run(tmp_path, make=lambda: UNet(wider))


def test_a_smaller_network_in_the_same_folder(tmp_path):
    run(tmp_path, dict(steps=3), make=lambda: Unused(TINY))
    with pytest.raises(ValueError, match='net.spare.weight is unknown'): run(tmp_path)


def test_the_same_network_again(straight, tmp_path):
    "As in a notebook: with its weights and gradients from before; the checkpoint decides."
    net = UNet(TINY)
    for steps in (6, 12): run(tmp_path, dict(steps=steps), make=lambda: net)
    torch.manual_seed(0)
    other = UNet(TINY)
    for p in other.parameters(): p.grad = torch.ones_like(p)
    run(tmp_path/'grad', dict(steps=6), make=lambda: UNet(TINY))
    run(tmp_path/'grad', make=lambda: other)
    assert apart(straight, tmp_path/'grad') == 0 == len(read_log(tmp_path, 'warning'))
    moments = tensors_of(checkpoints(tmp_path)[0])
    assert moments['opt.state.out.2.bias.step'] == 12


def test_nonfinite_steps_at_the_end_are_said_again(tmp_path):
    for where in ('on rank 0', 'it is not known on which ranks .* since the run was resumed'):
        with pytest.raises(ValueError, match=f'Stopped after 12 steps: the last 3 .*{where}'):
            run(tmp_path, dict(max_nonfinite=3), at={str(i): 'nan' for i in (9, 10, 11)})


def test_a_gradient_that_is_not_finite_while_the_loss_is(tmp_path):
    def loss(denoiser, x, label, note):
        value = paper_loss(denoiser, x, label, note)
        return value + (value - value.detach()).abs().sqrt()  # the root's slope at 0 is infinite
    with pytest.raises(ValueError, match='the loss itself was finite on every rank'):
        run(tmp_path, dict(max_nonfinite=3), loss=loss)


@pytest.mark.parametrize('make',
                         [os.mkfifo, lambda p: p.write_text(''), lambda p: p.symlink_to('.')])
def test_odd_things_in_the_way_of_a_checkpoint(straight, tmp_path, make):
    (tmp_path/'checkpoints').mkdir()
    make(tmp_path/'checkpoints'/'step_000000006.part')
    run(tmp_path)
    assert apart(straight, tmp_path) == 0


def test_an_error_of_one_rank_is_said_once(tmp_path, capfd):
    "What every rank has from rank 0 is said by rank 0 alone."
    trained(2, tmp_path, dict(steps=3))
    assert ends(start(2, run, tmp_path, dict(seed=5))) == [1, 1]
    assert capfd.readouterr().err.count('seed was 0 and is 5') == 1


def test_pictures_that_are_no_bytes_are_a_sentence(tmp_path):
    "On a GPU they are not made bytes on the way there either."
    x, y = DATA
    with pytest.raises(ValueError, match='Pictures are kept as bytes'):
        run(tmp_path, data=(x/255, y))
    assert cache_on_device(floats := x/255, 'cuda') is floats


def test_a_recipe_without_end_is_a_sentence(tmp_path):
    recipe = {}
    for _ in range(100_000): recipe = dict(inside=recipe)
    with pytest.raises(ValueError, match='recipe holds more than'): run(tmp_path, recipe=recipe)


@pytest.mark.parametrize('scalar', [np.float32, torch.tensor])
def test_a_learning_rate_of_any_library(tmp_path, scalar):
    for name, lr in (('plain', lambda step: .125), ('other', lambda step: scalar(.125))):
        run(tmp_path/name, dict(steps=2), lr=lr)
    assert [line['lr'] for line in read_log(tmp_path/'other')] == [.125]*2
    assert apart(tmp_path/'plain', tmp_path/'other') == 0


# What a run leaves behind

def test_a_hook_may_return_the_step(tmp_path):
    run(tmp_path, dict(steps=3), hooks=[lambda step, net: dict(step=step, half=step/2)])
    line, = read_log(tmp_path, 'save')
    assert line['step'] == 3 and line['half'] == 1.5

@pytest.mark.parametrize('number', [np.float32(1.5), torch.tensor(1.5), np.int64(3)])
def test_a_hook_may_return_numbers_of_any_library(tmp_path, number):
    run(tmp_path, dict(steps=3), hooks=[lambda step, net: dict(fid=number, event=2)])
    line, = read_log(tmp_path, 'save')
    assert line['fid'] == float(number) and line['event'] == 'save'

def test_a_hook_cannot_overwrite_what_the_log_says(tmp_path):
    "Nor end the training by one of the log's own words."
    own = dict.fromkeys(['self', 'event', 'time', 'step', 'seconds', 'by_logsnr'], -1.)
    run(tmp_path, dict(steps=3), hooks=[lambda step, net: own | dict(fid=2.)])
    line, = read_log(tmp_path, 'save')
    assert line['fid'] == 2 and line['event'] == 'save' and line['step'] == 3
    assert line['seconds'] >= 0 and line['time'] != -1

def test_hooks_that_were_killed_are_called_again(tmp_path):
    "Their checkpoint may be whole by then, also the last one; once they have ended, no more."
    called = []
    def hook(step, net):
        called.append(step)
        if len(called) == 2: raise RuntimeError('killed')
        return dict(fid=step)
    how = dict(steps=4, save_every=2)
    with pytest.raises(RuntimeError, match='killed'): run(tmp_path, how, hooks=[hook])
    for _ in range(2): assert run(tmp_path, how, hooks=[hook]) == 'done'
    assert called == [2, 4, 4] and [line['fid'] for line in read_log(tmp_path, 'save')] == [2, 4]

def test_slow_hooks_do_not_make_every_step_a_checkpoint(tmp_path):
    slow = [lambda step, net: time.sleep(1.2)]
    run(tmp_path, dict(steps=6, save_every=2, save_minutes=1/60, keep=0), hooks=slow)
    assert [p.name[-1] for p in checkpoints(tmp_path)] == ['6', '4', '2']

def test_hooks_are_no_part_of_the_speed(tmp_path):
    "Two hooks of two seconds stand between steps 1 and 6."
    run(tmp_path, dict(steps=6, save_every=2, log_every=6), hooks=[lambda step, net: time.sleep(2)])
    assert 6/read_log(tmp_path, 'step')[-1]['steps_per_second'] < 3

def test_a_signal_does_not_wait_for_hooks(tmp_path):
    called = []
    how = dict(save_every=2), {'4': 'term'}
    assert run(tmp_path, *how, hooks=[lambda step, net: called.append(step)]) == 'stopped'
    assert called == [2, 4] and checkpoints(tmp_path)[0].name == 'step_000000005'

def test_a_run_describes_itself(tmp_path):
    "At each kept step, also in a folder that has moved."
    run(tmp_path/'a', dict(keep=0), recipe=dict(network=dict(width=32)))
    shutil.move(tmp_path/'a', tmp_path/'b')
    path, manifest = open_checkpoint(tmp_path/'b', 6)
    assert path.name == 'step_000000006' and manifest['step'] == 6
    assert manifest['settings']['recipe'] == dict(network=dict(width=32))
    assert manifest['settings']['data']['sha256'] == fingerprint(*DATA)
    assert manifest['settings']['config']['batch_size'] == 16
    with pytest.raises(ValueError, match='no checkpoint of step 7; it has 12, 9, 6, 3'):
        open_checkpoint(tmp_path/'b', 7)


def test_checkpoints_by_the_clock(tmp_path, monkeypatch):
    """A half hour after the last, by a clock that goes on by four minutes whenever somebody looks
    at it: as the last one ends, and at each step."""
    minutes = iter(range(0, 10_000, 4))
    monkeypatch.setattr('cfg_lessons.engine.time.monotonic', lambda: 60*next(minutes))
    run(tmp_path, dict(steps=20, save_every=0, keep=0))
    steps = [int(p.name[5:]) for p in reversed(checkpoints(tmp_path))]
    assert steps[-1] == 20 and {b - a for a, b in zip(steps, steps[1:-1])} == {8}


def test_curves_and_pictures(tmp_path):
    "TensorBoard has the numbers of the log, once each; hooks have left theirs."
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    def draw(net, noise, label):
        return noise(torch.empty(len(label), 1, 8, 8)) + net.out[2].bias.sum()
    hooks = [sample_grid(tmp_path, draw, torch.arange(5), 3), validation_loss(paper_loss, *DATA)]
    for steps in (4, 6): run(tmp_path, dict(steps=steps, save_every=2), hooks=hooks)
    seen = EventAccumulator(str(tmp_path/'tensorboard')).Reload()
    log = read_log(tmp_path)
    assert [e.step for e in seen.Scalars('loss')] == [line['step']
                                                      for line in log] == list(range(1, 7))
    np.testing.assert_array_equal([np.float32(e.value) for e in seen.Scalars('loss')],
                                  np.float32([line['loss'] for line in log]))
    held_out = [line['validation_loss'] for line in read_log(tmp_path, 'save')]
    assert len(held_out) == 3 and held_out[2] < held_out[0]
    pages = sorted((tmp_path/'samples').iterdir())
    assert [p.name for p in pages] == [f'step_{s:09}.png' for s in (2, 4, 6)]
    assert np.asarray(Image.open(pages[0])).shape == (16, 24)


@pytest.mark.parametrize('fsdp', [False, True])
def test_hooks_change_nothing(tmp_path, fsdp):
    "The averaged network draws and is measured on two ranks, and training goes on as without."
    def draw(net, noise, label):
        return net(noise(torch.empty(len(label), 1, 8, 8)), torch.zeros(len(label)), label)
    hooks = [sample_grid(tmp_path/'with', draw, torch.arange(4)),
             validation_loss(paper_loss, *(a[:64] for a in DATA))]
    config = dict(steps=6, fsdp=fsdp)
    trained(2, tmp_path/'with', config, hooks=hooks)
    trained(2, tmp_path/'without', config)
    assert apart(tmp_path/'with', tmp_path/'without') == 0
    assert len(list((tmp_path/'with'/'samples').iterdir())) == 2


def test_weights_and_biases_is_told(tmp_path, monkeypatch):
    """A stand-in records what Weights & Biases would be given; nothing is sent without
    WANDB_PROJECT."""
    (tmp_path/'wandb.py').write_text('''
calls = []
class Run:
    def log(self, numbers, step): calls.append((step, numbers.get('loss')))
    def finish(self): calls.append('finish')
def init(**kwargs): calls.append(sorted(kwargs)); return Run()
''')
    monkeypatch.syspath_prepend(tmp_path)
    run(tmp_path/'without', dict(steps=2))
    import wandb
    assert wandb.calls == []
    monkeypatch.setenv('WANDB_PROJECT', 'lessons')
    run(tmp_path/'with', dict(steps=2))
    losses = [line['loss'] for line in read_log(tmp_path/'with')]
    assert wandb.calls == [['config', 'dir', 'id', 'resume'], (1, losses[0]), (2, losses[1]),
                           (2, None), 'finish']


def test_curves_that_cannot_be_drawn_end_nothing(tmp_path):
    "A file where TensorBoard wants its folder; with two ranks."
    (tmp_path/'tensorboard').write_text('in the way')
    trained(2, tmp_path, dict(steps=3))
    assert 'Curves are not drawn' in read_log(tmp_path, 'warning')[0]['text']


def test_curves_that_cannot_be_ended_end_nothing(tmp_path, monkeypatch):
    def full(): raise OSError(28, 'No space left on device')
    monkeypatch.setattr('cfg_lessons.logs._curves', lambda log, step: [(lambda *_: None, full)])
    assert run(tmp_path, dict(steps=2)) == 'done'


def test_files_are_as_private_as_the_user_wants(tmp_path):
    before = os.umask(0o077)
    try: run(tmp_path/'run', dict(steps=3))
    finally: os.umask(before)
    assert {p.stat().st_mode & 0o077 for p in (tmp_path/'run').rglob('*')} == {0}


def test_a_torn_line_of_the_log_spoils_no_other(tmp_path):
    run(tmp_path, dict(steps=3))
    with open(tmp_path/'log.jsonl', 'ab') as f: f.write(b'{"event": "step", "st\xc3')
    run(tmp_path, dict(steps=6))
    with open(tmp_path/'log.jsonl', 'ab') as f: f.write(b'[' * 100_000 + b'\n{"event": "step"}\n')
    assert [line['step'] for line in read_log(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_loss_by_noise_level(tmp_path):
    "The buckets of the log are the means of the errors that the loss has noted."
    def loss(denoiser, x, label, note):
        logsnr = torch.tensor([-15., -3., -3., 12.]*4)
        note(logsnr, torch.arange(16.))
        return denoiser(x, torch.zeros(16), label).pow(2).mean()
    run(tmp_path, dict(steps=1), loss=loss)
    line, = read_log(tmp_path)
    assert line['by_logsnr'] == [6., None, 7.5, None, None, None, None, 9.]


def test_no_thread_is_left(tmp_path):
    before = threading.active_count()
    for i in range(3): run(tmp_path/str(i), dict(steps=3))
    assert threading.active_count() <= before + 1  # tqdm's monitor


def test_layout_in_memory(tmp_path):
    """channels_last: pictures, weights and optimizer state lie as the config says, also when
    resumed."""
    seen = []
    def loss(denoiser, x, label, note):
        weight = denoiser.input_blocks[1][0].in_layers[2].weight
        seen.append((x.is_contiguous(memory_format=torch.channels_last), weight.stride(1)))
        return paper_loss(denoiser, x, label, note)
    for steps in (2, 4): run(tmp_path, dict(steps=steps, channels_last=True), loss=loss)
    assert seen == [(True, 1)]*4


def test_shares_of_a_batch():
    "Rank 0 of one, and the batches from a later start."
    config = TrainConfig(8, 12, flip=False)
    stream = train_batches(*DATA, config)
    first = [next(stream) for _ in range(3)]
    assert [i for i, _, _ in first] == [0, 1, 2]
    later = next(train_batches(*DATA, config, start=2))
    assert later[0] == 2 and later[1].equal(first[2][1]) and later[2].equal(first[2][2])
    x, y = next(batches(*DATA, 12, start=2))
    assert later[1].equal(from_uint8(x)) and later[2].equal(y)


def test_rank_zero_raises_on_every_rank():
    "Also an error that cannot be sent as it is."
    class Odd(Exception):
        def __reduce__(self): raise TypeError('not this one')
    def fail(): raise Odd('trouble')
    def ask():
        with pytest.raises((Odd, RuntimeError), match='trouble'): rank_zero(fail)
        assert rank_zero(lambda: 7) == 7
    from cfg_lessons.parallel import process_group
    def in_group():
        with process_group(): ask()
    assert ends(start(2, in_group)) == [0, 0]


@pytest.mark.parametrize('slow, ends_well', [(True, True), (False, False)])
def test_what_takes_longer_than_ranks_wait_ends_no_job(slow, ends_well, monkeypatch):
    """Hashing the pictures of a large set takes longer than ten minutes on a slow disk; here, six
    seconds for two."""
    from cfg_lessons import parallel
    monkeypatch.setattr(parallel, '_MEET', .5)
    def in_group():
        with parallel.process_group(minutes=2/60):
            assert rank_zero(lambda: time.sleep(6) or 7, slow=slow) == 7
    assert (ends(start(2, in_group)) == [0, 0]) == ends_well


def test_compiled_names(tmp_path):
    "A compiled network's checkpoint is that of the network."
    net = UNet(TINY)
    assert parallelize(net, TrainConfig(1)) is net
    assert parallelize(net, TrainConfig(1, compile=True))._orig_mod is net
