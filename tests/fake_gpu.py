"""What users call, on GPUs that are not there: FakeTensorMode keeps shapes, types and devices, no
numbers. `python fake_gpu.py OUT.json`, with fake_cuda.c preloaded, writes what was wrong."""
import importlib
import importlib.util
import json
import math
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from concurrent import futures
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import torch
import torch._subclasses.fake_tensor as fake_tensor
import torch.distributed.checkpoint as dcp
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
STEPS = 3  # of a training and of a sampler
HERE = str(Path(importlib.util.find_spec('cfg_lessons').origin).parent) + os.sep

# Where the host may wait for the GPU: how often in a training or a batch of pictures, and why
WAITS = {
    'reduce_metrics': (1, 'the means, at a line of the log'),
    '_Run.report': (1, 'the number of skipped steps, at a line of the log'),
    '_check_nonfinite': (1, 'whether to give up, at a line of the log'),
    'validation_loss.hook': (1, 'one number, at a checkpoint'),
    'sample_grid.hook': (1, 'the pictures, at a checkpoint'),
    '_store': (1, 'the finished pictures, to be written'),
    'to_uint8': (1, 'whether finished pictures have NaN'),
    'check_levels': (2, 'whether the levels rise, before the first step'),
    'dpmpp_2m': (1, 'whether the last level is infinite, before the first step'),
    'check_classifier': (1, 'whether a classifier hears the noise level, at its first call'),
    'scheduled.f': (STEPS, 'whether any weight is not 0, which saves an evaluation'),
    'zero_star.f': (STEPS, 'whether all stand still, which saves two evaluations'),
}
# What may go to the GPU other than from pinned memory without waiting: likewise
COPIES = {
    'Metrics.__init__': (2, 'eight numbers, once a training'),
    'cache_on_device': (1, 'the whole set, once a training'),
    'random_flip': (2*STEPS, 'a byte a picture, non_blocking'),
    'read_tensors': (math.inf, 'a checkpoint, once a training'),
    'validation_loss.hook': (8, 'held-out pictures, at a checkpoint'),
    'per_example_noise.noise': (1 + STEPS, 'noise from NumPy, non_blocking'),
    'generate_from': (1, 'the labels of a batch of pictures'),
    'train_recipe': (math.inf, 'the network, once a training'),
    'open_run': (math.inf, 'a network, before it draws'),
    'TableStep._apply': (math.inf, 'the table, where a network is moved'),
    'sample': (1, 'the levels, before the first step'),
    'dpmpp_2m': (1, 'the levels, before the first step'),
    'outside': (math.inf, 'what a user makes'),
}
# Truths on the GPU that the host is told; all others are true, and all numbers 0
UNTRUE = {'to_uint8', 'zero_star.f', 'dpmpp_2m'}


# The GPU
class Mode(fake_tensor.FakeTensorMode):
    "The devices are only names: nothing is made or copied there."
    avoid_device_init = True

    def __deepcopy__(self, memo): return self


def place():
    "The innermost function of the package that is at work, e.g. Metrics.read, or `outside`."
    frame = sys._getframe(1)
    while frame and not frame.f_code.co_filename.startswith(HERE): frame = frame.f_back
    names = frame.f_code.co_qualname.split('.') if frame else ['outside']
    return '.'.join(n for n in names if not n.startswith('<'))


class Watch(TorchDispatchMode):
    "Notes where the host waits for the GPU, what is copied there, and how convolutions are done."
    def __init__(self):
        super().__init__()
        self.waits, self.copies, self.convs, self.norms = (Counter() for _ in range(4))
        self.rounds = 0  # trainings and batches of pictures

    def wait(self, t):
        if t.device.type == 'cuda': self.waits[place()] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        op, t = func.overloadpacket, args[0] if args else None
        if op is aten._local_scalar_dense: return self.number(t)
        if op is aten.equal:
            self.wait(t)
            return False
        if op is aten.is_pinned: return hasattr(t, 'pinned')
        if op is aten._pin_memory:
            out = torch.empty_like(t)
            out.pinned = True
            return out
        out = func(*args, **kwargs or {})
        if op is aten._to_copy: self.crossing(t, out, (kwargs or {}).get('non_blocking'))
        if op is aten.copy_: self.crossing(args[1], t, args[2:] == (True,))
        if op is aten.convolution and torch.is_grad_enabled(): self.conv(*args[:2])
        if op is aten.convolution_backward: self.conv(*args[1:3])
        if op in (aten.native_group_norm, aten.silu) and torch.is_grad_enabled() and t.ndim == 4:
            self.norms[f'{op.__name__} in {t.dtype}'] += 1
        return out

    def number(self, t):
        "What the host is told of a number."
        self.wait(t)
        if t.dtype == torch.bool: return place() not in UNTRUE
        return 0. if t.is_floating_point() else 0

    def crossing(self, source, goal, non_blocking):
        "Note a copy from one device to another."
        if source.device == goal.device: return
        if source.device.type == 'cuda': return self.wait(source)
        if not (non_blocking and hasattr(source, 'pinned')): self.copies[place()] += 1

    def conv(self, x, weight):
        """Note a convolution of pictures in training: its type, and the layout of its weights, and
        of the pictures before the first norm, which answers with channels first."""
        given = (x, weight) if x.shape[1] == DATA[0].shape[1] else (weight,)
        last = all(t.is_contiguous(memory_format=torch.channels_last) for t in given if t.ndim == 4)
        if x.ndim == 4: self.convs[f'{x.dtype}, channels {"last" if last else "first"}'] += 1

    def tolist(self, t):
        "A list of zeros, for which the host waits once."
        self.wait(t)
        return np.zeros(tuple(t.shape)).tolist()

    def synchronize(self, *device): self.waits[place()] += 1


def numpy(t, **options):
    "An array of zeros; a tensor on a GPU has none."
    if t.device.type != 'cpu': raise TypeError(f'{t.device} tensor has no numpy')
    return np.zeros(tuple(t.shape), str(t.dtype).removeprefix('torch.'))


def apply(self, fn, recurse=True):
    "Module._apply with new parameters: PyTorch's swaps them, which fake ones do not allow."
    for child in self.children() if recurse else (): child._apply(fn)
    for kept in self._parameters, self._buffers:
        for name, t in kept.items():
            if t is None: continue
            with torch.no_grad(): new = fn(t)
            if new is not t and kept is self._parameters:
                new = torch.nn.Parameter(new, t.requires_grad)
            kept[name] = new
    return self


class Files:
    "In place of what reads and writes safetensors: of each tensor its shape and its type."
    loaded = []  # the tensors that were filled

    def __init__(self, path, **options): self.path = Path(path)

    def read_metadata(self):
        saved = json.loads((self.path/'tensors.json').read_text())
        of = {k: SimpleNamespace(size=size, properties=SimpleNamespace(dtype=getattr(torch, kind)))
              for k, (size, kind) in saved.items()}
        return SimpleNamespace(state_dict_metadata=of)

    @staticmethod
    def save(tensors, storage_writer, **options):
        kinds = {k: (t.shape, str(t.dtype).removeprefix('torch.')) for k, t in tensors.items()}
        storage_writer.path.mkdir(parents=True)
        (storage_writer.path/'tensors.json').write_text(json.dumps(kinds))
        done = futures.Future()
        done.set_result(None)
        return done

    @staticmethod
    def load(tensors, **options):
        for t in tensors.values(): t.detach().copy_(torch.empty(t.shape, dtype=t.dtype))
        Files.loaded = [t for k, t in tensors.items() if k.count('.') > 1]  # not the two counts


class AtOnce(futures.Executor):
    "In place of a thread, which would know nothing of the mode."
    def __init__(self, threads): pass

    def submit(self, f, *args):
        done = futures.Future()
        done.set_result(f(*args))
        return done


@contextmanager
def gpus():
    "Four GPUs, for the time of a with; gives the Watch."
    from cfg_lessons import checkpoints, images
    watch, patch = Watch(), mock.patch.object
    torch.cuda.init()
    with (patch(fake_tensor, 'init_gpu_context', lambda device: None),
          patch(fake_tensor.FakeTensor, 'tolist', lambda t: watch.tolist(t)),
          patch(fake_tensor.FakeTensor, 'numpy', numpy, create=True),
          patch(torch.nn.Module, '_apply', apply),
          patch(torch.cuda, 'device_count', lambda: 4),  # which asks NVML otherwise
          patch(torch.cuda, 'synchronize', watch.synchronize),
          patch(images, 'ThreadPoolExecutor', AtOnce),
          patch(checkpoints, 'HuggingFaceStorageReader', Files),
          patch(checkpoints, 'HuggingFaceStorageWriter', Files),
          patch(dcp, 'async_save', Files.save), patch(dcp, 'load', Files.load),
          Mode(), watch): yield watch


# What users call
DATA = np.zeros((8, 3, 8, 8), np.uint8), np.arange(8) % 4


def network(make='UNet', *step, **changes):
    "A small network on the GPU."
    from cfg_lessons import unet
    options = dict(side=8, width=32, mults=(1,), blocks=1, attention=(), head_width=32,
                   num_classes=4, dropout=.1)
    return getattr(unet, make)(unet.UNetConfig(**options | changes), *step).to('cuda')


def fit(watch, folder, make='UNet', hooks=(), **changes):
    "Train a small network; what is wrong with how that was done."
    from cfg_lessons import engine, recipes
    from cfg_lessons.config import TrainConfig
    options = dict(steps=STEPS, batch_size=4, log_every=STEPS, bf16=True, channels_last=True)
    kind = 'classifier' if make == 'UNetClassifier' else 'unet'
    loss, states = recipes.loss_of(recipes.Recipe(network().config, None, kind)), []
    class Kept(engine.TrainState):
        def __init__(self, *args):
            super().__init__(*args)
            states.append(self)
    watch.rounds += 1
    with mock.patch.object(engine, 'TrainState', Kept):
        engine.fit(folder, network(make), loss, DATA, TrainConfig(**options | changes),
                   hooks=hooks)
    kinds = {*watch.convs} - {'torch.bfloat16, channels last'}
    wide = [kind for kind in watch.norms if 'bfloat16' not in kind]
    return [f'convolution in {kind}' for kind in kinds] + wide + misplaced(states[-1])


def misplaced(state):
    "Which parts of a TrainState lie on another device than the network, or were not loaded."
    opt, gpu = state.opt.opt.state, next(state.net.parameters()).device
    mine = [(f'optimizer {k}', t) for s in opt.values() for k, t in s.items()]
    for name, ema in state.averages.items(): mine += [(name, t) for t in ema.net.parameters()]
    wrong = {f'{name} on {t.device}' for name, t in mine if t.device != gpu}
    memory = {t.untyped_storage()._cdata for t in [*state.net.parameters(), *(t for _, t in mine)]}
    if any(t.untyped_storage()._cdata not in memory for t in Files.loaded):
        wrong.add('a checkpoint was loaded into copies')
    return sorted(wrong)


def drawing(watch, denoiser, step=None, sampler=None):
    "A function draw(noise, label) -> pictures."
    from cfg_lessons import diffusion, sampling
    levels = diffusion.cosine(torch.linspace(1, 0, STEPS + 1))
    def draw(noise, label):
        watch.rounds += 1
        z = noise(torch.empty(len(label), *DATA[0].shape[1:], device='cuda'))
        run = sampler or partial(sampling.sample, step=step or sampling.ddim)
        return sampling.final(run(sampling.clipped(denoiser), z, label, levels, noise=noise))
    return draw


def draw_all(folder, only, draws):
    "Make pictures in each of several ways, or in one."
    from cfg_lessons.generation import generate_from
    for name in [only] if only else draws:
        draw = draws[name]
        generate_from(folder/name, draw, DATA[1][:4], DATA[0].shape[1:], {}, device='cuda')


def train(watch, folder):
    "Train with hooks and in microbatches, the data on the GPU."
    from cfg_lessons import logs, recipes
    from cfg_lessons.classifier_free import classifier_free
    def draw(net, noise, label): return drawing(watch, classifier_free(net, 1.))(noise, label)
    loss = recipes.loss_of(recipes.Recipe(network().config, None))
    hooks = (logs.validation_loss(loss, *DATA, 2),
             logs.sample_grid(folder, draw, torch.arange(4, device='cuda')))
    return fit(watch, folder, hooks=hooks, microbatch=2)


def resume(watch, folder):
    "Train a step and go on, with activations computed twice."
    first = fit(watch, folder, steps=1)
    return first + fit(watch, folder, steps=1 + STEPS, log_every=2*STEPS,
                       activation_checkpointing=True)


def classify(watch, folder):
    "Train a classifier, the data on the disk."
    return fit(watch, folder, 'UNetClassifier', gpu_cache_fraction=0.)


def draw(watch, folder, only=''):
    "Draw pictures with each sampler."
    from cfg_lessons import pretrained, sampling, unet
    net = network('UNet', pretrained.TableStep(pretrained.openai_levels('cosine')))
    quick = unet.for_sampling(net)
    draws = {f.__name__: drawing(watch, net, f)
             for f in (sampling.ddim, sampling.ancestral, sampling.heun)}
    draws['multistep'] = drawing(watch, net, sampler=sampling.dpmpp_2m)
    draw_all(folder, only, draws | dict(quick=drawing(watch, quick)))


def guide(watch, folder, only=''):
    "Draw pictures with each kind of guidance."
    from cfg_lessons import beyond, classifier_free, classifier_guidance, diffusion, pretrained
    net, weak, classifier = network(), network(), network('UNetClassifier')
    free, extrapolate = classifier_free.classifier_free(net, 1.), classifier_free.extrapolate
    other = beyond.relabelled(net, beyond.any_class(4))
    student = beyond.Distilled(beyond.widened(network(channels=4), net), 4.)
    ways = dict(
        free=free, doubled=classifier_free.batched_cfg(net, 1.), weak=extrapolate(net, weak, 1.),
        blinded=extrapolate(net, beyond.perturbed_attention(net), 1.),
        other=extrapolate(net, other, 1.),
        eps_only=pretrained.eps_only(network(out_channels=6)),
        classifier=classifier_guidance.classifier_guided(net, classifier, 1.),
        interval=beyond.scheduled(net, beyond.interval(1., -5., 5.)),
        linear=beyond.scheduled(net, beyond.linear_weight(1.)),
        cosine=beyond.scheduled(net, beyond.cosine_weight(1.)),
        rescaled=beyond.rescaled(net, 1.), thresholded=beyond.thresholded(free),
        projected=beyond.apg(net, 1., momentum=-.5, radius=9.),
        zero_star=beyond.zero_star(net, 1.), student=student.at(1.))
    draws = {name: drawing(watch, way) for name, way in ways.items()}
    draw_all(folder, only, draws | dict(plus=drawing(watch, net, beyond.cfg_plus_plus)))
    watch.rounds += 1
    x, label = torch.zeros(4, *DATA[0].shape[1:], device='cuda'), torch.arange(4, device='cuda')
    beyond.distillation_loss(student, net, diffusion.cosine, x, label).backward()


def recipe(watch, folder):
    "Train by recipes, and draw pictures with what was trained."
    from cfg_lessons import imagenet, images, recipes
    from cfg_lessons.config import TrainConfig
    os.environ['LOCAL_RANK'] = '3'
    images.save_images(folder/'set', *DATA)
    how, config = TrainConfig(STEPS, 4, log_every=STEPS), network().config
    for name, kind in (('net', 'unet'), ('classifier', 'classifier')):
        recipe = recipes.Recipe(config, how, kind)
        recipes.train_recipe(recipe, folder/'set', folder/name, device='cuda')
    for guidance, judge in (('classifier_free', ''), ('classifier', folder/'classifier')):
        imagenet.generate_samples(folder/'net', folder/f'by {guidance}', (1.,), 4, guidance,
                                  classifier=judge, steps=3, device='cuda')
    watch.rounds += 2 + 2*3


def groups(watch, folder):
    "Say which GPU a process computes on, and which one it seeds for a network on another."
    from cfg_lessons.parallel import _seed, process_group
    found, seeded = [], []
    for asked in 'cuda', 'cuda:1':
        with process_group(asked) as device: found.append((device, torch.cuda.current_device()))
    def note(seed): seeded.append(torch.cuda.current_device())
    with mock.patch.object(torch.cuda, 'manual_seed', note): _seed(5, torch.device('cuda:2'))
    return ([f'the GPUs are {found}']*(found != [('cuda:3', 3), ('cuda:1', 1)])
            + [f'seeded are {seeded}']*(seeded != [2]))


SCENES = dict(train=train, resume=resume, classify=classify, draw=draw, guide=guide, recipe=recipe,
              groups=groups)


def look(scene, *only):
    """What is wrong with how the package does something on a GPU, in a list of sentences; the
    names of all functions that wait or copy; and what PyTorch warns of."""
    from cfg_lessons.parallel import process_group
    os.environ['LOCAL_RANK'] = '3'
    folder, Files.loaded = Path(tempfile.mkdtemp()), []
    with gpus() as watch, warnings.catch_warnings(record=True) as told:
        try:
            with process_group('cuda'): wrong = SCENES[scene](watch, folder, *only) or []
        except Exception as e:
            where = [f.name for f in traceback.extract_tb(e.__traceback__)
                     if f.filename.startswith(HERE)]
            wrong = [f'{where[-1:]}: {type(e).__name__}: {e}']
        finally: shutil.rmtree(folder, ignore_errors=True)
    for what, seen, allowed in ('waits', watch.waits, WAITS), ('copies', watch.copies, COPIES):
        wrong += [f'{what} in {name}, {n} times' for name, n in seen.items()
                  if name not in allowed or n > allowed[name][0]*watch.rounds]
    told = [str(w.message) for w in told if 'FakeTensor' not in str(w.message)]
    return dict(wrong=wrong, names=sorted({*watch.waits, *watch.copies}), told=told)


# Faults that somebody could write
class Fault(NamedTuple):
    "In a module, `old` stands once; with `new` in its place, a scene has complaints that say so."
    scene: str
    module: str
    old: str
    new: str
    says: str


APART = 'same device'  # what PyTorch says of tensors on two devices
FAULTS = {
    'the sums of the log on the CPU': Fault(
        'classify', 'logs', 'torch.zeros(2, 2 + n, device=self.edges.device)',
        'torch.zeros(2, 2 + n)', APART),
    'the edges of the log on the CPU': Fault(
        'train', 'logs', 'torch.tensor(EDGES, device=device)', 'torch.tensor(EDGES)', APART),
    'a truth asked for at each step': Fault(
        'classify', 'parallel', 'bad = (~self.norm.isfinite()).float()',
        'bad = float(not self.norm.isfinite())', 'waits in SkipNonfinite.step'),
    'item at each step': Fault(
        'classify', 'parallel', 'total = total + value.detach()', 'total = total + value.item()',
        'waits in microbatched.f'),
    'float of the loss at each step': Fault(
        'classify', 'engine', 'done = step + 1\n',
        'done = step + 1 + (float(value) != float(value))\n', 'waits in _fit'),
    'synchronize at each step': Fault(
        'classify', 'logs', 'self.steps += 1', 'self.steps += 1; torch.cuda.synchronize()',
        'waits in Metrics.step'),
    'a line of the log at each step': Fault(
        'classify', 'engine', 'if last or done % config.log_every == 0: run.report',
        'if last or config.log_every: run.report', 'waits in reduce_metrics'),
    'labels checked on the host': Fault(
        'classify', 'diffusion', 'if label.is_cuda or torch.compiler.is_compiling(): ',
        'if torch.compiler.is_compiling(): ', 'waits in check_label'),
    'an optimizer that is not fused': Fault(
        'classify', 'checkpoints', 'config.lr, fused=True,', 'config.lr,',
        'waits in SkipNonfinite'),
    'a norm that must be finite': Fault(
        'classify', 'parallel', 'clip_grad_norm_(self.own, self.clip)',
        'clip_grad_norm_(self.own, self.clip, error_if_nonfinite=True)', 'waits in SkipNonfinite'),
    'an average on the CPU': Fault(
        'classify', 'training', 'copy.deepcopy(net).eval()', 'copy.deepcopy(net).cpu().eval()',
        'ema_0.9999 on cpu'),
    'optimizer state on the CPU after a resume': Fault(
        'resume', 'checkpoints', 'ema.step = step', """ema.step = step
            for s in self.opt.opt.state.values(): s.update({k: t.cpu() for k, t in s.items()})""",
        'optimizer exp_avg on cpu'),
    'a checkpoint loaded into copies on the CPU': Fault(
        'resume', 'checkpoints', 'read_tensors(path, self.tensors())',
        'read_tensors(path, {k: t.cpu() for k, t in self.tensors().items()})', 'into copies'),
    'batches not from pinned memory': Fault(
        'classify', 'images', 't = t.pin_memory()', 't = t.contiguous()', 'copies in to_device'),
    'batches that the host waits for': Fault(
        'classify', 'images', 'return t.to(device, non_blocking=True)', 'return t.to(device)',
        'copies in to_device'),
    'batches left on the CPU': Fault(
        'classify', 'engine', 'config.seed, start, device, **share', 'config.seed, start, **share',
        APART),
    'no set_device': Fault(
        'groups', 'parallel', 'torch.cuda.set_device(device)', 'pass', 'the GPUs are'),
    'every process on the first GPU': Fault(
        'groups', 'parallel', 'os.environ.get("LOCAL_RANK", 0)', 'os.environ.get("RANK", 0)',
        'the GPUs are'),
    'the current GPU seeded': Fault(
        'groups', 'parallel', 'with torch.cuda.device(device): torch.cuda.manual_seed(seed)',
        'torch.cuda.manual_seed(seed)', 'seeded are'),
    'autocast for the CPU': Fault(
        'classify', 'networks', 'torch.autocast(z.device.type,', "torch.autocast('cpu',",
        'torch.float32'),
    'norms in float32': Fault(
        'classify', 'unet', "torch.autocast('cuda', enabled=False)",
        "torch.autocast('cuda')", 'silu in torch.float32'),
    'bf16 forgotten': Fault(
        'classify', 'engine', 'in_bf16(model) if config.bf16 else model', 'model', 'torch.float32'),
    'pictures with channels first': Fault(
        'classify', 'engine', 'pictures.to(memory_format=torch.channels_last)',
        'pictures.contiguous()',
        'channels first'),
    'weights with channels first': Fault(
        'classify', 'checkpoints', 'net.to(memory_format=torch.channels_last)', 'pass',
        'channels first'),
    'times of a classifier on the CPU': Fault(
        'classify', 'classifier_guidance', 'torch.rand(len(x), device=x.device)',
        'torch.rand(len(x))', APART),
    'noise of the loss on the CPU': Fault(
        'train', 'training', 'torch.randn_like(x)', 'torch.randn(x.shape)', APART),
    'dropped labels on the CPU': Fault(
        'train', 'training', 'torch.rand(len(label), device=label.device)',
        'torch.rand(len(label))', APART),
    'held-out pictures on the CPU': Fault(
        'train', 'logs', 'torch.as_tensor(a[i:i + batch_size]).to(device)',
        'torch.as_tensor(a[i:i + batch_size])', APART),
    'each held-out batch waited for': Fault(
        'train', 'logs', 'lambda *_: None)\n', 'lambda *_: None).cpu()\n',
        'waits in validation_loss.hook'),
    'a grid that is still on the GPU': Fault(
        'train', 'logs', 'labels)).cpu().numpy()', 'labels)).numpy()', 'has no numpy'),
    'waves of the noise level on the CPU': Fault(
        'draw ddim', 'networks', 'torch.arange(dim//2, device=step.device)', 'torch.arange(dim//2)',
        APART),
    'labels on the CPU': Fault(
        'draw ddim', 'generation', 'labels[rows].astype(np.int64)).to(device)',
        'labels[rows].astype(np.int64))', APART),
    'noise to start from on the CPU': Fault(
        'draw ddim', 'sampling', 'torch.from_numpy(np.stack(rows)).to(like, non_blocking=True)',
        'torch.from_numpy(np.stack(rows))', APART),
    'fresh noise on the CPU': Fault(
        'draw ancestral', 'sampling', 'logsnr_next, mix)*noise(z)', 'logsnr_next, '
                                                                    'mix)*torch.randn(z.shape)',
        APART),
    'levels of multistep on the CPU': Fault(
        'draw multistep', 'sampling', """logsnrs = logsnrs.to(z)
    check_levels(logsnrs)
    if""", """check_levels(logsnrs)
    if""", APART),
    'levels copied at each step': Fault(
        'draw ddim', 'sampling', """logsnrs = logsnrs.to(z)
    check_levels(logsnrs)
    for logsnr, logsnr_next in pairwise(logsnrs):""", """check_levels(logsnrs)
    for logsnr, logsnr_next in pairwise(level.to(z) for level in logsnrs):""", 'copies in sample'),
    'levels checked at each step': Fault(
        'draw ddim', 'sampling', 'z, predict = step(predict, z, here, there',
        'if logsnr < logsnr_next: z, predict = step(predict, z, here, there', 'waits in sample'),
    'the first prediction looked at on a GPU': Fault(
        'draw ddim', 'sampling', "z.device.type == 'cpu' and ", '', 'waits in _watched.f'),
    'a table of steps on the CPU': Fault(
        'draw ddim', 'pretrained', 'self.table = self.exact.to(self.table.device)',
        'self.table = self.exact', APART),
    'no class on the CPU': Fault(
        'guide free', 'classifier_free', 'return denoiser(z, logsnr, torch.full_like(label, NULL))',
        'return denoiser(z, logsnr, torch.full(label.shape, NULL))', APART),
    'the last push on the CPU': Fault(
        'guide projected', 'beyond', 'before.append(push)', 'before.append(push.cpu())', APART),
    'a random class on the CPU': Fault(
        'guide other', 'beyond', 'torch.randint_like(label, num_classes)',
        'torch.randint(num_classes, label.shape)', APART),
    'labels of the grid on the CPU': Fault(
        'recipe', 'recipes', 'torch.arange(20, device=device)', 'torch.arange(20)', APART),
    'a network to draw with on the CPU': Fault(
        'recipe', 'recipes', 'return net.to(device).eval()', 'return net.eval()', APART),
    'the tops of all pictures asked for at each step': Fault(
        'guide thresholded', 'beyond', 'expand_like(wide.quantile(percentile, 1).clamp(min=1)',
        'expand_like(wide.quantile(percentile, 1).clamp(min=wide.min().item())',
        'waits in thresholded.f'),
}


SLOW = ('tensorboard', 'torch.utils.tensorboard', 'cfg_lessons.beyond', 'cfg_lessons.generation',
        'cfg_lessons.imagenet', 'cfg_lessons.recipes')


def plant(fault):
    "Import a module of the package with a fault in it."
    spec = importlib.util.find_spec(f'cfg_lessons.{fault.module}')
    text = Path(spec.origin).read_text()
    if text.count(fault.old) != 1:
        raise ValueError(f'{fault.module} has {text.count(fault.old)} times {fault.old!r}.')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    exec(compile(text.replace(fault.old, fault.new), spec.origin, 'exec'), module.__dict__)


def forked(scene, fault=None):
    "What `look` finds, in a process of its own where the package is imported anew."
    reader, writer = os.pipe()
    if pid := os.fork():
        os.close(writer)
        with open(reader) as f: text = f.read()
        os.waitpid(pid, 0)
        return json.loads(text) if text else dict(wrong=['the process died'])
    os.close(reader)
    try:
        for name in [n for n in sys.modules if n.startswith('cfg_lessons')]: del sys.modules[name]
        if fault: plant(fault)
        os.write(writer, json.dumps(look(*scene.split())).encode())
    except Exception as e:
        os.write(writer, json.dumps(dict(wrong=[f'{type(e).__name__}: {e}'])).encode())
    finally: os._exit(0)


def main(out):
    "Write what is wrong in each scene, and with each fault."
    for name in SLOW:  # to import; then each process has them
        if importlib.util.find_spec(name.split('.')[0]): importlib.import_module(name)
    Mode()
    found = {scene: forked(scene) for scene in SCENES}
    found |= {name: forked(fault.scene, fault) for name, fault in FAULTS.items()}
    Path(out).write_text(json.dumps(found, indent=1))


if __name__ == '__main__': main(*sys.argv[1:])
