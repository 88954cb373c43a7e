"On a GPU: pictures per second, memory, losses in several precisions, and resuming."
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import torch

from cfg_lessons.checkpoints import checkpoints, read_tensors
from cfg_lessons.classifier_free import classifier_free
from cfg_lessons.costs import flops
from cfg_lessons.diffusion import cosine
from cfg_lessons.config import TrainConfig
from cfg_lessons.engine import fit
from cfg_lessons.logs import read_log
from cfg_lessons.sampling import ancestral, clipped, final, sample
from cfg_lessons.training import denoising_loss
from cfg_lessons.unet import ADM64, ADM128, UNet

from .equivalence import relative_difference
from .forward import denoisers, random_batch
from .timing import timed_alone, clock_of, largest_batch, rounds
from .training import COMPILED, MIDDLING, option_makers, training_makers


def matrix_rate(
    device,  # where
    n=8192,  # side of the matrices
):
    "FLOPs per second in the product of two bfloat16 matrices."
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    return 2*n**3/median(rounds({'product': lambda: a @ a}, 10, clock_of(device))['product'])


def guided_run(
    denoiser,  # eps(z, logsnr, label)
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures
    device,  # where
    steps,  # steps of the sampler
):
    "A function that takes some steps of guided sampling, two calls of the network each."
    z, label = random_batch(config, batch, device)
    levels, guided = cosine(torch.linspace(1, 0, steps + 1)), clipped(classifier_free(denoiser, .3))
    return lambda: final(sample(guided, z, label, levels, partial(ancestral, mix=.3)))


def gpu_training(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures per step
    device='cuda',  # where
    module=None,  # of guided-diffusion, or None
    repeats=5,  # rounds
    makers=training_makers,  # or `option_makers`
):
    "Facts of a record: pictures per second in training, and the part of the matrix rate in use."
    cuda, cost = str(device).startswith('cuda'), flops(config)
    rate, found = matrix_rate(device, 8192 if cuda else 512), {}
    for name, make in makers(config, batch, device, module, compiled=cuda).items():
        seconds, memory = timed_alone(name, make, repeats, device)
        if seconds is None: continue  # no room on this GPU
        a_second = batch/median(seconds)
        found[name] = dict(median=median(seconds), fastest=min(seconds), slowest=max(seconds),
                           images_per_second=a_second, utilisation=3*cost*a_second/rate)
        if cuda: found[name]['memory'] = memory
    bench = 'gpu-training' if makers == training_makers else 'gpu-options'
    facts = dict(bench=bench, batch=batch, device=str(device), repeats=repeats,
                 matrix_rate=rate, flops=cost, cases=found)
    if cuda and makers == training_makers:
        way = 'ours, autocast, channels last'
        facts['largest_batch'], facts['its_memory'] = largest_batch(
            lambda n: training_makers(config, n, device)[way], device)
        facts['tf32'] = torch.backends.cudnn.allow_tf32
    return facts


def gpu_sampling(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures
    device='cuda',  # where
    module=None,  # of guided-diffusion, or None
    repeats=3,  # rounds
    steps=16,  # steps that are timed
):
    "Facts of a record: pictures per second of guided sampling, from the time of some of 256 steps."
    cases = denoisers(config, device, module, compiled=str(device).startswith('cuda'))
    found = {}
    for name, f in cases.items():
        run = partial(guided_run, f, config, batch, device, steps)
        seconds, _ = timed_alone(name, run, repeats, device)
        if seconds is None: continue
        found[name] = dict(median=median(seconds), fastest=min(seconds), slowest=max(seconds),
                           images_per_second_at_256=batch*steps/256/median(seconds))
    return dict(bench='gpu-sampling', batch=batch, device=str(device), repeats=repeats, steps=steps,
                flops=flops(config), cases=found)


def patterns(
    config,  # a UNetConfig with classes
    n=512,  # how many
):
    "Smooth random patterns, one per class, brighter and darker: bytes (n, C, H, W), classes (n,)."
    torch.manual_seed(0)
    y, shape = torch.arange(n) % config.num_classes, (config.num_classes, config.channels, 4, 4)
    smooth = torch.nn.functional.interpolate(torch.randn(shape), size=config.side, mode='bilinear')
    x = 128 + 40*smooth[y] + 20*torch.randn(n, 1, 1, 1)
    return x.clamp(0, 255).byte().numpy(), y.numpy()


def engine_run(
    folder,  # for its checkpoints and log
    config,  # a UNetConfig with a row for NULL
    device,  # where
    how,  # a TrainConfig
):
    "Train by the engine, on smooth patterns: the losses in its log."
    torch.manual_seed(0)
    def loss(denoiser, x, label, note):
        return denoising_loss(denoiser, cosine, x, label, .1, note=note)
    fit(folder, UNet(config).to(device), loss, patterns(config), how)
    return [line['loss'] for line in read_log(folder)]

PRECISIONS = {'float32': {}, 'bf16': dict(bf16=True),
              'bf16, channels_last': dict(bf16=True, channels_last=True)}


def gpu_losses(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures per step
    device='cuda',  # where
    steps=300,  # how many, a multiple of ten
):
    """Facts of a record: mean losses of tenths of a run in several precisions; `apart` is how far
    they are from those of float32 at most, relative to the loss."""
    cuda, found = str(device).startswith('cuda'), {}
    for name, on in (PRECISIONS | COMPILED if cuda else PRECISIONS).items():
        with tempfile.TemporaryDirectory() as folder:
            how = TrainConfig(steps, batch, lr=3e-4, warmup_steps=20, log_every=steps//10, **on)
            losses = engine_run(folder, config, device, how)
        wanted = found['float32']['losses'] if found else losses
        apart = max(abs(a - b)/b for a, b in zip(losses, wanted))
        found[name] = dict(first=losses[0], last=losses[-1], apart=apart, losses=losses)
    return dict(bench='gpu-losses', batch=batch, device=str(device), steps=steps, cases=found)


def gpu_resume(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures per step
    device='cuda',  # where
    steps=40,  # how many
):
    "Facts of a record: how far a resumed run ends from a straight one, and a second straight one."
    with tempfile.TemporaryDirectory() as folder:
        how = TrainConfig(steps, batch, lr=3e-4, warmup_steps=20, bf16=True)
        def run(name, *ends):
            path, weights = Path(folder)/name, UNet(config).state_dict()
            for end in ends: engine_run(path, config, device, replace(how, steps=end))
            read_tensors(checkpoints(path)[0], {f'net.{k}': t for k, t in weights.items()}, 'net.')
            return weights
        straight = run('straight', steps)
        def far(other):
            return max(relative_difference(straight[k].float(), other[k].float()) for k in straight)
        cases = {'the same again': far(run('again', steps)),
                 'stopped and resumed': far(run('stopped', steps//2, steps))}
    return dict(bench='gpu-resume', batch=batch, device=str(device), steps=steps,
                cases={name: dict(apart=value) for name, value in cases.items()})


def gpu_bench(
    what,  # "ADM64", "ADM128" or "engine"
    module,  # of guided-diffusion, or None
    repeats,  # rounds
):
    "The comparisons on a GPU: functions that return the facts of a record, and their networks."
    shapes = {'ADM64': (replace(ADM64, dropout=0.), 64), 'ADM128': (ADM128, 32)}
    if what == 'engine':
        yield partial(gpu_losses, MIDDLING, 64), 'MIDDLING'
        yield partial(gpu_resume, MIDDLING, 64), 'MIDDLING'
        options = partial(gpu_training, repeats=repeats, makers=option_makers)
        yield partial(options, *shapes['ADM64']), 'ADM64'
        return
    for bench in (gpu_training, gpu_sampling):
        yield partial(bench, *shapes[what], 'cuda', module, repeats), what
