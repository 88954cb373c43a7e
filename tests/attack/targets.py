"""What is attacked: a training and a generation, each small, with its uninterrupted end, and
the differences from that end in words."""
import hashlib
import json
import os
import re
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from cfg_lessons.classifier_free import classifier_free
from cfg_lessons.diffusion import cosine
from cfg_lessons.config import TrainConfig
from cfg_lessons.engine import fit
from cfg_lessons.generation import Network, generate
from cfg_lessons.parallel import process_group, rank_and_size
from cfg_lessons.sampling import sample
from cfg_lessons.training import denoising_loss

from .process import undisturbed

CHANCE = np.random.default_rng(0)
DATA = CHANCE.integers(0, 256, (64, 1, 8, 8), dtype=np.uint8), CHANCE.integers(0, 10, 64)


class Tiny(nn.Module):
    "A denoiser with dropout and, if asked for, a buffer that depends on the data."
    def __init__(self, buffer):
        super().__init__()
        self.first, self.label = nn.Linear(65, 24), nn.Embedding(11, 24)
        self.blocks = nn.ModuleList([nn.Linear(24, 24), nn.Linear(24, 64)])
        if buffer: self.register_buffer('seen', torch.zeros(()))

    def forward(self, z, logsnr, label):
        h = self.first(torch.cat([z.flatten(1), logsnr[:, None]/10], 1)) + self.label(label + 1)
        h = self.blocks[0](nn.functional.dropout(h.relu(), .1, self.training))
        guess = self.blocks[1](h.relu()).view_as(z)
        if not hasattr(self, 'seen'): return guess
        self.seen = self.seen.lerp(z.mean(), .1)
        return guess + self.seen


class Training:
    "A training of six steps with a checkpoint at every second; `begun` has made four of them."
    files = ('.lock', 'log.jsonl', 'checkpoints', 'tensorboard', 'checkpoints/step_000000002',
             'checkpoints/step_000000006', 'checkpoints/x.part')  # names that a job will want
    def __init__(self, home, ranks=1, buffer=True, nan=(), goals=(4, 6), **config):
        self.home, self.ranks, self.buffer, self.nan = home, ranks, buffer, nan
        self.new, self.resumed = goals
        self.config, self.ends = dict(seed=0) | config, {}

    def work(self, folder, goal, keep=1):
        "Train, or go on; the answer of `fit` and a hash of the network's weights."
        steps = []
        def loss(denoiser, x, label, note):
            steps.append(steps[-1] + 1 if steps else first_step(folder))
            value = denoising_loss(denoiser, cosine, x, label, .2, note=note)
            bad = steps[-1] in self.nan and rank_and_size()[0] == self.ranks - 1
            return value*float('nan') if bad else value
        with process_group():
            torch.manual_seed(0)
            net = Tiny(self.buffer)
            config = TrainConfig(goal, 8, lr=1e-2, warmup_steps=4, save_every=2, log_every=1,
                                 keep=keep, **self.config)
            ended = fit(folder, net, loss, DATA, config)
            if self.config.get('fsdp'): return f'{ended} sharded'
            return f'{ended} {sha256(*(t.numpy().tobytes() for t in net.state_dict().values()))}'

    def prepare(self):
        "Make the uninterrupted runs to both goals, and one that was begun."
        for goal in (self.new, self.resumed):
            self.ends[goal] = undisturbed(self, self.straight(goal), goal)
            *_, last = [e for e in events(self.straight(goal)) if e['event'] == 'step']
            assert last['skipped'] == sum(step < goal for step in self.nan)
        undisturbed(self, self.home/'begun', self.new, keep=3)

    def straight(self, goal): return self.home/f'straight_{goal}'

    def torn(self, folder, least=0):
        "What is wrong in a folder in which a run was interrupted, in words, or ''."
        for path in saved(folder):
            if not intact(path): return f'{path.name} is torn'
        now = step_of(folder)
        return f'the newest checkpoint was of step {least} and is of {now}' if now < least else ''

    def wrong(self, folder, goal):
        "How a finished run differs from the uninterrupted one, in words, or ''."
        other = self.straight(goal)
        if torn := self.torn(folder): return torn
        if step_of(folder) != goal: return f'the newest checkpoint is of step {step_of(folder)}'
        differ = differing(*(tensors(saved(f)[-1]) for f in (folder, other)))
        if differ: return f'{len(differ)} tensors differ, the first {differ[0]}'
        if len(saved(folder)) != 1: return f'there are {len(saved(folder))} checkpoints'
        names = names_in(folder) ^ names_in(other)
        if names: return f'names of files differ: {sorted(names)[:5]}'
        return wrong_log(folder, other, goal)

    def progress(self, folder): return step_of(folder)
    def same(self, folder, goal):
        "Whether the newest checkpoint is that of the uninterrupted run."
        return tensors(saved(folder)[-1]) == tensors(saved(self.straight(goal))[-1])


class Generation:
    "Twenty-four pictures in parts of five; `begun` has three of the parts."
    new = resumed = ranks = 1
    files = '.lock', 'parts', 'request.json', 'images.npy', 'labels.npy', 'notes.json'
    def __init__(self, home): self.home, self.ends = home, {}

    def work(self, folder, goal=1, stop=0):
        "Generate, or go on; with `stop`, the process ends before that part."
        parts = []
        def guess(z, logsnr, label): return z*(.3 + .01*label[:, None, None, None]) + .1
        def decode(x):
            parts.append(x)
            if len(parts) == stop: os._exit(0)
            return (127.5*(x.clamp(-1, 1) + 1)).round().to(torch.uint8)
        network = Network(guess, (1, 8, 8), 10, lambda t: torch.cat(
            [cosine(torch.linspace(1, .1, t)), torch.tensor([torch.inf])]), decode)
        generate(folder, network, partial(classifier_free, w=1.), sample,
                 np.arange(24) % 10, 3, dict(w=1.), seed=1, batch_size=5)
        return 'done'

    def prepare(self):
        self.ends[1] = undisturbed(self, self.straight(1), 1)
        undisturbed(self, self.home/'begun', 1, stop=4)

    def straight(self, goal): return self.home/'straight'

    def torn(self, folder, least=0):
        "What is wrong in a folder in which a generation was interrupted, in words, or ''."
        now = self.progress(folder)
        if (folder/'notes.json').exists():
            x = [(f/'images.npy').read_bytes() for f in (folder, self.straight(1))]
            return '' if x[0] == x[1] else 'images.npy is torn'
        return f'{least} parts were there and {now} are' if now < least else ''

    def wrong(self, folder, goal):
        "How a finished set differs from the uninterrupted one, in words, or ''."
        differ = differing(*({p.relative_to(f).as_posix(): p.is_file() and p.read_bytes()
                              for p in f.rglob('*')} for f in (folder, self.straight(goal))))
        return f'files differ: {differ[:5]}' if differ else ''

    def progress(self, folder):
        if (folder/'notes.json').exists(): return 5
        return len(list((folder/'parts').glob('*.npy')))

    def same(self, folder, goal): return not self.torn(folder)


def sha256(*data): return hashlib.sha256(b''.join(data)).hexdigest()
def differing(a, b): return [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]


def saved(folder):
    "The checkpoints of a run, the newest last."
    return sorted(p for p in Path(folder, 'checkpoints').glob('step_*')
                  if re.fullmatch(r'step_\d{9}', p.name))


def digests(path):
    "The lines that SHA256SUMS should have."
    return [f'{sha256(p.read_bytes())}  {p.name}' for p in sorted(path.iterdir())
            if p.name != 'SHA256SUMS' and p.is_file()]


def intact(path):
    "Whether a checkpoint has the files, and the bytes in them, that its digests say."
    try:
        if any(p.is_symlink() or not p.is_file() for p in path.iterdir()): return False
        found, lines = digests(path), (path/'SHA256SUMS').read_text().splitlines()
        return len(found) > 1 and sorted(found) == sorted(lines)
    except (OSError, ValueError): return False


def whole(path):
    "Whether it is intact and of the step that its name says."
    if not intact(path): return False
    try: return json.loads((path/'manifest.json').read_text())['step'] == step_in(path)
    except (OSError, ValueError, RecursionError): return False


def step_in(path): return int(path.name[5:])
def step_of(folder): return max(map(step_in, saved(folder)), default=0)


def first_step(folder):
    "The step with which the run went on, by its log."
    return [e for e in events(folder) if e.get('event') == 'start'][-1]['from_step']


def tensors(path):
    "All that a checkpoint holds: file and name -> type, shape and bytes."
    return {f'{p.name} {k}': (str(t.dtype), tuple(t.shape), t.numpy().tobytes())
            for p in path.glob('*.safetensors') for k, t in load_file(p).items()}


def names_in(folder):
    "Names of all files but of whole or damaged checkpoints and of curves."
    found = {p.relative_to(folder).as_posix() for p in Path(folder).rglob('*')}
    without = 'tensorboard', 'checkpoints/damaged_', 'checkpoints/step_'
    return {n for n in found if not n.startswith(without) or n.endswith('.part')}


def events(folder):
    "The lines of a log that are whole."
    found, log = [], Path(folder, 'log.jsonl')
    for line in log.read_text(errors='replace').splitlines() if log.exists() else ():
        try: found.append(json.loads(line))
        except (ValueError, RecursionError): pass
    return [e for e in found if isinstance(e, dict)]


def wrong_log(folder, other, goal):
    """How a log differs from that of the uninterrupted run, in words, or '': within one call every
    step follows the one before, and together they have every step, with the same loss."""
    losses, expected = {}, {e['step']: e['loss'] for e in events(other) if e['event'] == 'step'}
    for e in events(folder):
        if e['event'] == 'start': at = e['from_step']
        if e['event'] != 'step': continue
        if e['step'] != at + 1: return f'in the log, step {e["step"]} follows step {at}'
        at, losses[e['step']] = e['step'], e['loss']
    if [*sorted(losses)] != [*range(1, goal + 1)]: return f'the log has the steps {sorted(losses)}'
    differ = [s for s in losses if losses[s] != expected[s]]
    return f'the losses of the steps {differ} differ' if differ else ''
