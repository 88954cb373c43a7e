"One step of training: everybody's, and ours with the engine's switches turned in turn."
from functools import partial
from unittest.mock import patch

import torch

from cfg_lessons.diffusion import cosine
from cfg_lessons.checkpoints import TrainState
from cfg_lessons.config import TrainConfig
from cfg_lessons.networks import in_bf16
from cfg_lessons.parallel import microbatched, numerics, parallelize
from cfg_lessons.training import EMA, denoising_loss
from cfg_lessons.unet import UNet, UNetConfig, group_norm

from .forward import random_batch, precisions_and_layouts
from .others import programs

MIDDLING = UNetConfig(side=32, width=64, mults=(1, 2, 2), blocks=2, attention=(16, 8),
                      num_classes=10)


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
    batch,  # pictures per step
    device='cpu',  # where
    module=None,  # of guided-diffusion, or None
    compiled=False,  # also compile ours; minutes
):
    "Makers of steps of training the same architecture, name -> a function that makes a step."
    cases, cuda = {}, str(device).startswith('cuda')
    one_by_one = {} if cuda else dict(foreach=False)  # PyTorch's own choice on a GPU
    def make(program, words, dtype, layout, compiled=False):
        batch_of = random_batch(config, batch, device, layout)
        net = programs(config, module)[program][0]().to(device=device, memory_format=layout)
        ready = torch.compile(net, fullgraph=True) if compiled else net
        asked = partial(programs(config, module)[program][1], ready)
        asked = asked if dtype == torch.float32 else in_bf16(asked)
        how = one_by_one if program == 'guided-diffusion' else dict(fused=True)
        opt = torch.optim.AdamW(net.parameters(), 1e-4, **how)
        return training_step(partial(denoising_loss, asked, cosine), net, opt, *batch_of)
    for who in programs(config, module):
        every = precisions_and_layouts()
        for way in every[:1 + cuda] if who == 'guided-diffusion' else every:
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
    batch = random_batch(config, how.batch_size, device, layout)
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
    batch,  # pictures per step
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
