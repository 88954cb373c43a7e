"How fast is it, compared with what, and would the same be measured tomorrow? For `make bench`, `make equivalence`, `make gpu-check`."

import argparse
import copy
import gc
import hashlib
import importlib
import importlib.util
import json
import sys
import tempfile
import time
import types
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from unittest.mock import patch

import numpy as np
import torch

from cfg_lessons.checkpoints import checkpoints, read_tensors
from cfg_lessons.classifier_free import classifier_free
from cfg_lessons.costs import flops
from cfg_lessons.diffusion import NULL, cosine
from cfg_lessons.engine import TrainConfig, TrainState, fit
from cfg_lessons.logs import read_log
from cfg_lessons.metrics import provenance
from cfg_lessons.networks import timestep, in_bf16
from cfg_lessons.parallel import microbatched, numerics, parallelize
from cfg_lessons.sampling import ancestral, clipped, ddim, heun, final, dpmpp_2m, sample
from cfg_lessons.training import EMA, denoising_loss, atomic_write
from cfg_lessons.unet import (ADM64, ADM128, ADM256, OPENAI, UNet, UNetConfig,
                              for_sampling, group_norm, openai_levels)


def clock_of(
    device,  # "cpu" or "cuda"
):
    "A clock in seconds: time at work for one thread of a processor, else time on the wall."
    if str(device).startswith('cuda'):
        def waited():
            torch.cuda.synchronize()
            return time.perf_counter()
        return waited
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def rounds(
    cases,  # name -> function without arguments
    repeats=5,  # number of rounds
    clock=time.process_time,  # () -> seconds
):
    "Seconds of each call, name -> list: each case once a round, after one call not counted."
    seconds = {name: [] for name in cases}
    for f in cases.values(): f()
    for _ in range(repeats):
        for name, f in cases.items():
            start = clock()
            f()
            seconds[name].append(clock() - start)
    return seconds


def summary(
    seconds,  # name -> list of seconds, as from `rounds`
):
    """name -> its median seconds and how many times as fast as the first case it is, round by
    round: the median ratio, and the quartiles of the ratio."""
    first, found = next(iter(seconds.values())), {}
    for name, own in seconds.items():
        low, middle, high = quantiles([a/b for a, b in zip(first, own)], n=4, method='inclusive')
        found[name] = dict(median=median(own), ratio=middle, ratio_low=low, ratio_high=high)
    return found


def store(
    folder,  # where cards are kept, e.g. data/results/bench; it is made
    card,  # facts, a dict with at least `bench`, `what` and `cases`
):
    "Write a card under the name of its bench, its shape and the machine; return the path."
    versions = {}
    for package in ('torch', 'diffusers', 'denoising-diffusion-pytorch'):
        try: versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError: pass
    card = provenance() | card | dict(versions=versions)
    where = hashlib.sha256(f'{card["machine"]}{card.get("threads")}'.encode()).hexdigest()[:8]
    path = Path(folder)/f'{card["bench"]}_{card["what"]}_{where}.json'
    with atomic_write(path) as f: f.write((json.dumps(card, indent=1) + '\n').encode())
    return path


def newest(
    folder,  # where cards are kept
    bench,  # which bench, e.g. "forward"
    **wanted,  # facts that the card must state, e.g. what='ADM64'
):
    "The latest card of a bench, a dict. Raises ValueError if there is none."
    cards = [json.loads(path.read_text()) for path in sorted(Path(folder).glob(f'{bench}_*.json'))]
    cards = [c for c in cards if all(c.get(k) == v for k, v in wanted.items())]
    if not cards: raise ValueError(f'{folder} has no card of the bench {bench} {wanted or ""}.')
    return max(cards, key=lambda c: c['date'])


def checkout(
    path,  # folder of a checkout of openai/guided-diffusion
):
    "Its module `unet`, without the rest of the package. Raises ValueError if it is not there."
    folder = Path(path)/'guided_diffusion'
    for name in ('unet', 'gaussian_diffusion'):
        if not (folder/f'{name}.py').is_file():
            raise ValueError(f'{folder}/{name}.py does not exist; give the folder of a checkout of '
                             'openai/guided-diffusion.')
    for name in [n for n in sys.modules if n.split('.')[0] == 'guided_diffusion']:
        del sys.modules[name]
    package = types.ModuleType('guided_diffusion')
    package.__path__ = [str(folder)]
    sys.modules['guided_diffusion'] = package
    try: return importlib.import_module('guided_diffusion.unet')
    except ImportError as e: raise ValueError(f'{folder}/unet.py cannot be used: {e}.') from None


def in_guided_diffusion(
    module,  # what `checkout` returned
    c,  # a UNetConfig
):
    "The network of this shape in guided-diffusion: net(z, step, label), label None if no classes."
    return module.UNetModel(
        c.side, c.channels, c.width, c.out_channels or c.channels, c.blocks,
        tuple(c.side//s for s in c.attention), c.dropout, c.mults, num_heads=c.heads,
        num_classes=c.num_classes + c.null_row if c.num_classes else None,
        num_head_channels=c.head_width or -1, use_scale_shift_norm=c.film,
        resblock_updown=c.block_resampling, use_new_attention_order=c.new_order)


def in_diffusers(
    c,  # a UNetConfig with scale and shift, and heads by width
):
    "The network of this shape in diffusers: net(z, step, label).sample."
    from diffusers import UNet2DModel, logging
    logging.set_verbosity_error()
    looks = [c.side//2**i in c.attention for i in range(len(c.mults))]
    down = ['AttnDownBlock2D' if look else 'ResnetDownsampleBlock2D' for look in looks]
    up = ['AttnUpBlock2D' if look else 'ResnetUpsampleBlock2D' for look in reversed(looks)]
    return UNet2DModel(
        sample_size=c.side, in_channels=c.channels, out_channels=c.out_channels or c.channels,
        block_out_channels=tuple(m*c.width for m in c.mults), layers_per_block=c.blocks,
        attention_head_dim=c.head_width, resnet_time_scale_shift='scale_shift',
        downsample_type='resnet', upsample_type='resnet', norm_num_groups=32, dropout=c.dropout,
        down_block_types=tuple(down), up_block_types=tuple(up),
        num_class_embeds=c.num_classes + c.null_row if c.num_classes else None)


def seeded_weights(
    net,  # a network; its parameters are replaced
    seed=0,  # a whole number
):
    """Give every parameter normal numbers that depend on the seed and its name alone, of a size
    that keeps signals alive; return the network."""
    for name, p in net.named_parameters():
        words = np.frombuffer(hashlib.sha256(f'{seed} {name}'.encode()).digest(), np.uint64)
        stream = np.random.Generator(np.random.Philox(key=words[:2]))
        values = torch.from_numpy(stream.standard_normal(tuple(p.shape), dtype=np.float32))
        if p.ndim > 1: values /= p[0].numel()**.5
        else: values = values/5 + name.endswith('weight')
        with torch.no_grad(): p.copy_(values)
    return net


def ways():
    "What to compare: words, dtype and memory format."
    layouts = [('', torch.contiguous_format), (', channels last', torch.channels_last)]
    return [(f'{precision}{words}', dtype, layout) for words, layout in layouts
            for precision, dtype in [('float32', torch.float32), ('bfloat16', torch.bfloat16)]]


def row_of(
    label,  # classes or NULL, (B,)
    config,  # a UNetConfig
):
    "The row of each label in a table of classes whose last row is for NULL, (B,)."
    return label.where(label != NULL, config.num_classes)


def guided_cases(
    module,  # of guided-diffusion
    config,  # a UNetConfig with classes
    weights,  # a state dict
    device,  # where
):
    "Its network as denoisers, in 32 and in 16 bits, name -> denoiser."
    net = in_guided_diffusion(module, config).eval().to(device)
    net.load_state_dict(weights)
    def ask(n): return lambda z, logsnr, y: n(z, timestep(logsnr), row_of(y, config)).float()
    cases = {'guided-diffusion, float32': ask(net),
             'guided-diffusion, autocast bfloat16': in_bf16(ask(net))}
    if str(device).startswith('cuda'):
        half = copy.deepcopy(net)
        half.convert_to_fp16()
        half.dtype = torch.float16
        cases['guided-diffusion, float16'] = ask(half)
    return cases


class AsDenoiser(torch.nn.Module):
    "A UNet2DModel of diffusers as a denoiser."
    def __init__(self,
        net,  # the network
        config,  # its shape, a UNetConfig
    ):
        super().__init__()
        self.net, self.config = net, config

    def forward(self,
        z,  # noisy pictures, (B, C, H, W)
        logsnr,  # their log-SNR, (B,)
        label,  # classes or NULL, (B,)
    ):
        "The noise it believes in, the shape of z."
        return self.net(z, timestep(logsnr), row_of(label, self.config)).sample


def denoisers(
    config,  # a UNetConfig with classes
    device='cpu',  # where
    module=None,  # of guided-diffusion, as from `checkout`, or None
    compiled=False,  # also compile ours; minutes
):
    "Everybody's network of one shape, in both precisions and layouts, name -> denoiser."
    ours = seeded_weights(UNet(config)).eval().to(device)
    cases = guided_cases(module, config, ours.state_dict(), device) if module else {}
    nets = {'ours': ours}
    if in_reach('diffusers'):
        nets = {'diffusers': AsDenoiser(in_diffusers(config), config).to(device)} | nets
    for who, net in nets.items():
        for words, *how in ways(): cases[f'{who}, {words}'] = for_sampling(net, *how)
    if compiled: cases[f'ours, {words}, compiled'] = for_sampling(ours, compiled=True)
    return cases


def made_up(
    config,  # a UNetConfig with classes
    batch,  # how many
    device='cpu',  # where
    layout=torch.contiguous_format,  # in memory
):
    "Noise in the place of pictures, (B, C, H, W), and classes, (B,): the same at every call."
    torch.manual_seed(0)
    x = torch.randn(batch, config.channels, config.side, config.side, device=device)
    label = torch.arange(batch, device=device) % config.num_classes
    return x.to(memory_format=layout), label


def in_reach(
    package,  # name of a package
):
    "Whether it is installed."
    return importlib.util.find_spec(package) is not None


def forward_cases(
    config,  # a UNetConfig with classes
    batch,  # pictures a call
    device='cpu',  # where
    module=None,  # of guided-diffusion, or None
    compiled=False,  # also compile ours; minutes
):
    "Programs that answer the same pictures, name -> function without arguments."
    z, label = made_up(config, batch, device)
    logsnr = torch.linspace(-3, 3, batch, device=device)
    def call(f): return torch.no_grad()(lambda: f(z, logsnr, label))
    return {name: call(f) for name, f in denoisers(config, device, module, compiled).items()}

MIDDLING = UNetConfig(side=32, width=64, mults=(1, 2, 2), blocks=2, attention=(16, 8),
                      num_classes=10)


def own(
    net,  # our network
    z,  # noisy pictures, (B, C, H, W)
    logsnr,  # their log-SNR, (B,)
    label,  # classes or NULL, (B,)
):
    "How to ask our network for the noise."
    return net(z, logsnr, label)


def programs(
    config,  # a UNetConfig with a row for NULL
    module=None,  # of guided-diffusion, or None
):
    "Who takes part: name -> (a function that makes the network, how to ask it for the noise)."
    def gd(net, z, logsnr, label): return net(z, timestep(logsnr), row_of(label, config))
    def df(net, z, logsnr, label): return gd(net, z, logsnr, label).sample
    found = {}
    if module: found['guided-diffusion'] = partial(in_guided_diffusion, module, config), gd
    if in_reach('diffusers'): found['diffusers'] = partial(in_diffusers, config), df
    return found | {'ours': (partial(UNet, config), own)}


def training_step(
    loss,  # loss(x, label) -> scalar
    net,  # the network in it
    opt,  # its optimizer
    x,  # pictures, (B, C, H, W)
    label,  # their classes, (B,)
):
    "A function without arguments that takes one step of training and returns the loss."
    average = EMA(net)
    def step():
        opt.zero_grad(set_to_none=True)
        value = loss(x, label)
        value.backward()
        opt.step()
        average.update()
        return value.detach()
    return step


def training_makers(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures a step
    device='cpu',  # where
    module=None,  # of guided-diffusion, or None
    compiled=False,  # also compile ours; minutes
):
    "Makers of steps of training the same architecture, name -> a function that makes a step."
    cases, cuda = {}, str(device).startswith('cuda')
    one_by_one = {} if cuda else dict(foreach=False)  # PyTorch's own choice on a card
    def make(program, words, dtype, layout, compiled=False):
        batch_of = made_up(config, batch, device, layout)
        net = programs(config, module)[program][0]().to(device=device, memory_format=layout)
        ready = torch.compile(net, fullgraph=True) if compiled else net
        asked = partial(programs(config, module)[program][1], ready)
        asked = asked if dtype == torch.float32 else in_bf16(asked)
        how = one_by_one if program == 'guided-diffusion' else dict(fused=True)
        opt = torch.optim.AdamW(net.parameters(), 1e-4, **how)
        return training_step(partial(denoising_loss, asked, cosine), net, opt, *batch_of)
    for who in programs(config, module):
        for way in ways()[:1 + cuda] if who == 'guided-diffusion' else ways():
            words = way[0].replace('bfloat16', 'autocast')
            cases[f'{who}, {words}'] = partial(make, who, *way)
    if compiled: cases[f'ours, {words}, compiled'] = partial(make, 'ours', *way, compiled=True)
    return cases

SWITCHES = {'nothing': {}, 'channels_last': dict(channels_last=True), 'bf16': dict(bf16=True),
            'bf16, channels_last': dict(bf16=True, channels_last=True),
            'microbatch of a quarter': dict(microbatch=4),
            'activation_checkpointing': dict(activation_checkpointing=True)}
COMPILED = {'compile': dict(compile=True),
            'bf16, channels_last, compile': dict(bf16=True, channels_last=True, compile=True)}
ON_GPUS = {'tf32': dict(tf32=True),
           'bf16, cudnn_benchmark off': dict(bf16=True, cudnn_benchmark=False)}


def engine_step(
    how,  # a TrainConfig
    config,  # a UNetConfig with a row for NULL
    device='cpu',  # where
    wide_norms=False,  # with group norms as autocast has them, in float32 on a GPU
):
    "A function that takes one step of training as chapter 14's engine does, and returns the loss."
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    batch = made_up(config, how.batch_size, device, layout)
    state = TrainState(UNet(config).to(device), how)
    model = parallelize(state.net, how)
    denoiser = in_bf16(model) if how.bf16 else model
    def loss(x, label): return denoising_loss(denoiser, cosine, x, label)
    step = training_step(partial(microbatched(loss, model, how), 0), state.net, state.opt, *batch)
    norm = torch.group_norm if wide_norms else group_norm
    def f():
        with numerics(how), patch('cfg_lessons.unet.group_norm', norm): return step()
    return f


def option_makers(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures a step
    device='cpu',  # where
    module=None,  # not used: nobody else has these switches
    compiled=False,  # also compile; minutes
):
    "Makers of steps with one switch turned after the other, name -> a function that makes a step."
    def how(on): return TrainConfig(1, batch, **on | {k: batch//4 for k in on if k == 'microbatch'})
    on_gpu = ON_GPUS if torch.device(device).type == 'cuda' else {}
    makers = {name: partial(engine_step, how(on), config, device)
              for name, on in (SWITCHES | (COMPILED if compiled else {}) | on_gpu).items()}
    if on_gpu:
        makers['bf16, norms in float32'] = partial(engine_step, how(dict(bf16=True)), config,
                                                   device, True)
    return makers


def free(
    z,  # noisy examples, (B, ...)
    logsnr,  # their log-SNR, (B,)
    label,  # classes or NULL, (B,)
):
    "A denoiser that costs nothing and says nothing."
    return z


def diffusers_sampler(
    scheduler,  # one of its schedulers
    z,  # noise, (B, ...)
    steps,  # how many
):
    "A function that runs it around a network that costs nothing."
    @torch.no_grad()
    def run():
        scheduler.set_timesteps(steps)
        x = z
        for t in scheduler.timesteps:
            x = scheduler.step(scheduler.scale_model_input(x, t), t, x).prev_sample
    return run


def lucidrains_sampler(
    z,  # noise, (B, 1, H, H)
    steps,  # how many
):
    "The DDIM of denoising-diffusion-pytorch around a network that costs nothing."
    from denoising_diffusion_pytorch import GaussianDiffusion
    net = torch.nn.Identity()
    net.channels = net.out_dim = 1
    net.self_condition = net.random_or_learned_sinusoidal_cond = False
    net.forward = lambda x, *told: x
    theirs = GaussianDiffusion(net, image_size=z.shape[2], sampling_timesteps=steps)
    return lambda: theirs.ddim_sample(tuple(z.shape))


def sampler_cases(
    batch=64,  # pictures of 8 x 8
    steps=50,  # steps of every sampler
):
    "Samplers around a network that costs nothing, name -> function without arguments."
    z, label = torch.randn(batch, 1, 8, 8), torch.zeros(batch).long()
    levels, cases = cosine(torch.linspace(1, 0, steps + 1)), {}
    if in_reach('diffusers'):
        import diffusers
        for name in ('DDIM', 'DDPM', 'EulerDiscrete', 'DPMSolverMultistep'):
            options = dict(clip_sample=False) if name.startswith('DD') else {}  # as ours
            scheduler = getattr(diffusers, f'{name}Scheduler')(**options)
            cases[f'diffusers, {name}'] = diffusers_sampler(scheduler, z, steps)
    if in_reach('denoising_diffusion_pytorch'):
        cases['denoising-diffusion-pytorch, DDIM'] = lucidrains_sampler(z, steps)
    def run(step): return lambda: final(sample(free, z, label, levels, step))
    cases |= {'ours, ddim': run(ddim), 'ours, ancestral': run(partial(ancestral, mix=.3)),
              'ours, heun (two evaluations)': run(heun)}
    cases['ours, multistep'] = lambda: final(dpmpp_2m(free, z, label, levels))
    return cases


def twins():
    "The shapes that are compared: OpenAI's at full size, and small ones with every option."
    small = UNetConfig(side=24, width=32, mults=(1, 2, 3), blocks=2, attention=(12, 6),
                       head_width=0, num_classes=7)
    return {'ADM-64': replace(ADM64, dropout=0., **OPENAI), 'ADM-128': replace(ADM128, **OPENAI),
            'ADM-256': replace(ADM256, **OPENAI),
            'ADM-256, unconditional': replace(ADM256, num_classes=0, **OPENAI),
            'four heads': small, 'legacy attention': replace(small, new_order=False),
            'heads by width': replace(small, head_width=32),
            'added embedding': replace(small, film=False, channels=1),
            'plain resampling': replace(small, block_resampling=False, null_row=False),
            'unconditional': replace(small, num_classes=0, side=20, attention=(10, 5)),
            'learned variance': replace(small, **OPENAI)}


def probe(
    net,  # a network of this shape, ours or theirs
    config,  # its shape, a UNetConfig
    ask,  # (net, z, logsnr, label) -> answer
    batch,  # pictures
):
    """The answer to seeded pictures, the gradient of its mean square by the pictures, and by each
    parameter (by name)."""
    stream = np.random.Generator(np.random.Philox(key=config.side))
    shape = batch, config.channels, config.side, config.side
    z = torch.from_numpy(stream.standard_normal(shape, dtype=np.float32)).requires_grad_()
    label = torch.arange(batch) if config.num_classes else torch.full((batch,), NULL)
    if config.null_row and batch > 1: label[-1] = NULL
    answer = ask(net, z, torch.linspace(-2, 3, batch + 1)[1:], label)
    answer.pow(2).mean().backward()
    return answer.detach(), z.grad, {name: p.grad for name, p in net.named_parameters()}


def some(
    answer,  # a tensor
):
    "Twenty-four of its numbers, from all over it, a list."
    return answer.flatten()[::answer.numel()//24][:24].tolist()


def apart(
    a,  # a tensor
    b,  # another
):
    "Their largest difference, relative to the largest number of the first."
    return ((a - b).abs().max()/a.abs().max()).item()


def compare(
    config,  # a UNetConfig
    module,  # of guided-diffusion
    batch,  # pictures
):
    "How far guided-diffusion's network and ours are apart, and some numbers of ours, a dict."
    def gd(net, z, logsnr, label):
        known = dict(y=row_of(label, config)) if config.num_classes else {}
        return net(z, timestep(logsnr), **known)
    theirs = seeded_weights(in_guided_diffusion(module, config)).eval()
    answer, by_picture, wanted = probe(theirs, config, gd, batch)
    names = list(theirs.state_dict())
    del theirs
    net = seeded_weights(UNet(config)).eval()
    mine = probe(net, config, own, batch)
    off = max((g - mine[2][k]).abs().max().item() for k, g in wanted.items())
    return dict(parameters=sum(p.numel() for p in net.parameters()), batch=batch,
                same_names=list(net.state_dict()) == names, answer=apart(answer, mine[0]),
                gradient=apart(by_picture, mine[1]),
                parameter_gradients=off/max(g.abs().max().item() for g in wanted.values()),
                numbers=some(mine[0]))


def tables_apart(
    path,  # folder of a checkout of guided-diffusion
):
    "The largest difference in log-SNR between its two tables of steps and ours."
    checkout(path)
    theirs, worst = importlib.import_module('guided_diffusion.gaussian_diffusion'), 0.
    for schedule in ('cosine', 'linear'):
        alpha2 = np.cumprod(1 - theirs.get_named_beta_schedule(schedule, 1000))
        difference = np.log(alpha2/(1 - alpha2)) - openai_levels(schedule)
        worst = max(worst, float(np.abs(difference).max()))
    return worst


def matrix_rate(
    device,  # where
    n=8192,  # side of the matrices
):
    "Operations a second in the product of two bfloat16 matrices."
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
    z, label = made_up(config, batch, device)
    levels, guided = cosine(torch.linspace(1, 0, steps + 1)), clipped(classifier_free(denoiser, .3))
    return lambda: final(sample(guided, z, label, levels, partial(ancestral, mix=.3)))


def alone(
    make,  # a function that makes a function without arguments
    repeats,  # rounds
    device,  # where
):
    """Seconds of the calls, and the largest memory in use meanwhile, in bytes (0 on a processor);
    both None if the card has too little. What others left on the card is removed before."""
    gc.collect()
    cuda = str(device).startswith('cuda')
    if cuda: torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
    try: seconds = rounds({'it': make()}, repeats, clock_of(device))['it']
    except torch.OutOfMemoryError: return None, None
    except RuntimeError as e:  # one way that does not work here must not end the others
        failed(getattr(make, 'args', make), e)
        return None, None
    return seconds, torch.cuda.max_memory_allocated() if cuda else 0


def largest(
    make,  # batch -> a function that makes a function without arguments
    device,  # where
    begin=8,  # batch to begin with
    end=4096,  # and to end with
):
    "The largest batch, doubling, for which the memory is enough, and its bytes; (0, 0) for none."
    fits = 0, 0
    while begin <= end:
        seconds, memory = alone(make(begin), 1, device)
        if seconds is None: break
        fits, begin = (begin, memory), 2*begin
    return fits


def gpu_training(
    config,  # a UNetConfig with a row for NULL
    batch,  # pictures a step
    device='cuda',  # where
    module=None,  # of guided-diffusion, or None
    repeats=5,  # rounds
    makers=training_makers,  # or `option_makers`
):
    "Facts of a card: pictures a second in training, and the part of the matrix rate in use."
    cuda, cost = str(device).startswith('cuda'), flops(config)
    rate, found = matrix_rate(device, 8192 if cuda else 512), {}
    for name, make in makers(config, batch, device, module, compiled=cuda).items():
        seconds, memory = alone(make, repeats, device)
        if seconds is None: continue  # no room on this card
        a_second = batch/median(seconds)
        found[name] = dict(median=median(seconds), fastest=min(seconds), slowest=max(seconds),
                           images_per_second=a_second, utilisation=3*cost*a_second/rate)
        if cuda: found[name]['memory'] = memory
    bench = 'gpu-training' if makers == training_makers else 'gpu-options'
    facts = dict(bench=bench, batch=batch, device=str(device), repeats=repeats,
                 matrix_rate=rate, flops=cost, cases=found)
    if cuda and makers == training_makers:
        way = 'ours, autocast, channels last'
        facts['largest_batch'], facts['its_memory'] = largest(
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
    "Facts of a card: pictures a second of guided sampling, from the time of some of 256 steps."
    cases = denoisers(config, device, module, compiled=str(device).startswith('cuda'))
    found = {}
    for name, f in cases.items():
        seconds, _ = alone(lambda: guided_run(f, config, batch, device, steps), repeats, device)
        if seconds is None: continue
        found[name] = dict(median=median(seconds), fastest=min(seconds), slowest=max(seconds),
                           images_per_second_at_256=batch*steps/256/median(seconds))
    return dict(bench='gpu-sampling', batch=batch, device=str(device), repeats=repeats, steps=steps,
                flops=flops(config), cases=found)


def patterns(
    config,  # a UNetConfig with classes
    n=512,  # how many
):
    "Smooth random patterns, one a class, brighter and darker: bytes (n, C, H, W), classes (n,)."
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
    batch,  # pictures a step
    device='cuda',  # where
    steps=300,  # how many, a multiple of ten
):
    """Facts of a card: mean losses of tenths of a run in several precisions; `apart` is how far
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
    batch,  # pictures a step
    device='cuda',  # where
    steps=40,  # how many
):
    "Facts of a card: how far a stopped and resumed run ends from a straight one, and a second one."
    with tempfile.TemporaryDirectory() as folder:
        how = TrainConfig(steps, batch, lr=3e-4, warmup_steps=20, bf16=True)
        def run(name, *ends):
            path, weights = Path(folder)/name, UNet(config).state_dict()
            for end in ends: engine_run(path, config, device, replace(how, steps=end))
            read_tensors(checkpoints(path)[0], {f'net.{k}': t for k, t in weights.items()}, 'net.')
            return weights
        straight = run('straight', steps)
        def far(other): return max(apart(straight[k].float(), other[k].float()) for k in straight)
        cases = {'the same again': far(run('again', steps)),
                 'stopped and resumed': far(run('stopped', steps//2, steps))}
    return dict(bench='gpu-resume', batch=batch, device=str(device), steps=steps,
                cases={name: dict(apart=value) for name, value in cases.items()})


def cpu_bench(
    bench,  # "forward", "training", "options" or "samplers"
    module,  # of guided-diffusion, or None
    repeats,  # rounds
    compiled,  # whether to compile as well
):
    "One comparison on the processor: the facts of its card."
    if bench == 'forward':
        facts = dict(what='ADM64', batch=4, parameters=295_904_454)
        cases = forward_cases(twins()['ADM-64'], 4, 'cpu', module, compiled)
    elif bench in ('training', 'options'):
        facts = dict(what='MIDDLING', batch=16, parameters=7_995_267)
        makers = training_makers if bench == 'training' else option_makers
        cases = {name: make() for name, make
                 in makers(MIDDLING, 16, 'cpu', module, compiled).items()}
    else: facts, cases = dict(what='free', batch=64, steps=50), sampler_cases()
    clock = clock_of('cpu')
    return facts | dict(bench=bench, device='cpu', threads=torch.get_num_threads(), repeats=repeats,
                        clock=clock.__name__, cases=summary(rounds(cases, repeats, clock)))


def twin_bench(
    path,  # folder of a checkout of guided-diffusion
):
    "The comparison of answers with guided-diffusion: the facts of its card."
    module, cases = checkout(path), {}
    for name, config in twins().items():
        cases[name] = compare(config, module, 1 if config.side > 64 else 2)
        sys.stderr.write(f'{name}: {cases[name]["answer"]:.0e}\n')
    return dict(bench='twin', what='answers', cases=cases, tables_apart=tables_apart(path))


def gpu_bench(
    what,  # "ADM64", "ADM128" or "engine"
    module,  # of guided-diffusion, or None
    repeats,  # rounds
):
    "The comparisons on a GPU: functions that return the facts of a card, and their networks."
    shapes = {'ADM64': (replace(ADM64, dropout=0.), 64), 'ADM128': (ADM128, 32)}
    if what == 'engine':
        yield partial(gpu_losses, MIDDLING, 64), 'MIDDLING'
        yield partial(gpu_resume, MIDDLING, 64), 'MIDDLING'
        options = partial(gpu_training, repeats=repeats, makers=option_makers)
        yield partial(options, *shapes['ADM64']), 'ADM64'
        return
    for bench in (gpu_training, gpu_sampling):
        yield partial(bench, *shapes[what], 'cuda', module, repeats), what


def table(
    facts,  # of a card
):
    "The cases of a card in lines of text."
    def cell(v): return f'{v:12.4g}' if isinstance(v, float) else f'{v!s:>12}'
    lines = [f'{facts["bench"]}, {facts["what"]}']
    for name, case in facts['cases'].items():
        shown = {k: v for k, v in case.items() if not isinstance(v, list)}
        if len(lines) == 1: lines.append(' '*44 + ''.join(f' {k[-11:]:>11}' for k in shown))
        lines.append(f'{name:44}' + ''.join(map(cell, shown.values())))
    return '\n'.join(lines)

BENCHES = ('forward', 'training', 'options', 'samplers', 'twin', 'ADM64', 'ADM128', 'engine')


def facts_of(
    bench,  # one of BENCHES
    asked,  # the options of the command: checkout, repeats, compiled
):
    """Run one bench: the facts of each of its cards, one after the other; what fails on a GPU is
    said, and the rest goes on. Raises ValueError if it lacks what it needs."""
    module = checkout(asked.checkout) if asked.checkout else None
    if bench == 'twin':
        if not module: raise ValueError('twin needs --checkout, a checkout of guided-diffusion.')
        yield twin_bench(asked.checkout)
        return
    if bench in ('ADM64', 'ADM128', 'engine'):
        if not torch.cuda.is_available(): raise ValueError(f'{bench} needs a graphics card (CUDA).')
        for run, what in gpu_bench(bench, module, asked.repeats):
            try: yield dict(what=what) | run()
            except (RuntimeError, ValueError, OSError) as e: failed(what, e)
        return
    if bench == 'samplers' and not in_reach('diffusers'):
        raise ValueError("samplers needs the others to compare with: pip install '.[bench]'.")
    yield cpu_bench(bench, module, asked.repeats, asked.compiled)


def failed(
    what,  # which part of a bench
    e,  # its error
):
    "Say in a line that a part has failed."
    sys.stderr.write(f'{what} failed: {(str(e) or type(e).__name__).splitlines()[0]}\n')


def main(
    words=None,  # arguments of the command; None takes those of the program
):
    "Run benches, print their tables and write their cards; 0, or 1 after a sentence."
    parser = argparse.ArgumentParser('python tests/bench.py', description=main.__doc__)
    parser.add_argument('bench', nargs='+', choices=BENCHES, help='what to run')
    parser.add_argument('--checkout', help='folder of a checkout of openai/guided-diffusion')
    parser.add_argument('--repeats', type=int, default=7, help='rounds, two or more')
    parser.add_argument('--compiled', action='store_true', help='compile ours as well; minutes')
    parser.add_argument('--commit', help='of the code, where there is no git to say it')
    parser.add_argument('--out', default='data/results/bench', help='where cards go')
    asked = parser.parse_args(words)
    if asked.repeats < 2: parser.error('--repeats must be two or more, for there to be a spread')
    try:
        Path(asked.out).mkdir(parents=True, exist_ok=True)
        for bench in asked.bench:
            for facts in facts_of(bench, asked):
                facts |= dict(command=said(bench, asked))
                if asked.commit: facts |= dict(commit=asked.commit)
                path = store(asked.out, facts)
                sys.stdout.write(table(facts) + f'\n{path}\n\n')
    except (ValueError, OSError, ImportError, RuntimeError) as e:
        sys.stderr.write(f'{(str(e) or type(e).__name__).splitlines()[0]}\n')
        return 1
    return 0


def said(
    bench,  # one of BENCHES
    asked,  # the options of the command
):
    "The command that makes this card, without the folders of this machine."
    options = [f'--repeats {asked.repeats}', *['--checkout CHECKOUT']*bool(asked.checkout)]
    return ' '.join(['python tests/bench.py', bench, *options,
                     *['--compiled']*asked.compiled])

if __name__ == '__main__': sys.exit(main())
