"One call of the network: everybody's, in both precisions and memory formats."
import copy

import torch

from cfg_lessons.networks import in_bf16, timestep
from cfg_lessons.unet import UNet, for_sampling

from .others import (DiffusersDenoiser, class_row, in_diffusers, in_guided_diffusion, is_installed,
                     seeded_weights)


def precisions_and_layouts():
    "What to compare: words, dtype and memory format."
    layouts = [('', torch.contiguous_format), (', channels last', torch.channels_last)]
    return [(f'{precision}{words}', dtype, layout) for words, layout in layouts
            for precision, dtype in [('float32', torch.float32), ('bfloat16', torch.bfloat16)]]


def random_batch(
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


def guided_diffusion_cases(
    module,  # of guided-diffusion
    config,  # a UNetConfig with classes
    weights,  # a state dict
    device,  # where
):
    "Its network as denoisers, in 32 and in 16 bits, name -> denoiser."
    net = in_guided_diffusion(module, config).eval().to(device)
    net.load_state_dict(weights)
    def ask(n): return lambda z, logsnr, y: n(z, timestep(logsnr), class_row(y, config)).float()
    cases = {'guided-diffusion, float32': ask(net),
             'guided-diffusion, autocast bfloat16': in_bf16(ask(net))}
    if str(device).startswith('cuda'):
        half = copy.deepcopy(net)
        half.convert_to_fp16()
        half.dtype = torch.float16
        cases['guided-diffusion, float16'] = ask(half)
    return cases


def denoisers(
    config,  # a UNetConfig with classes
    device='cpu',  # where
    module=None,  # of guided-diffusion, as from `checkout`, or None
    compiled=False,  # also compile ours; minutes
):
    "Everybody's network of one shape, in both precisions and layouts, name -> denoiser."
    ours = seeded_weights(UNet(config)).eval().to(device)
    weights = ours.state_dict()
    cases = guided_diffusion_cases(module, config, weights, device) if module else {}
    nets = {'ours': ours}
    if is_installed('diffusers'):
        nets = {'diffusers': DiffusersDenoiser(in_diffusers(config), config).to(device)} | nets
    for who, net in nets.items():
        for words, *how in precisions_and_layouts():
            cases[f'{who}, {words}'] = for_sampling(net, *how)
    if compiled: cases[f'ours, {words}, compiled'] = for_sampling(ours, compiled=True)
    return cases


def forward_cases(
    config,  # a UNetConfig with classes
    batch,  # pictures per call
    device='cpu',  # where
    module=None,  # of guided-diffusion, or None
    compiled=False,  # also compile ours; minutes
):
    "Programs that answer the same pictures, name -> function without arguments."
    z, label = random_batch(config, batch, device)
    logsnr = torch.linspace(-3, 3, batch, device=device)
    def call(f): return torch.no_grad()(lambda: f(z, logsnr, label))
    return {name: call(f) for name, f in denoisers(config, device, module, compiled).items()}
