"The network of the paper as OpenAI's guided-diffusion and Hugging Face's diffusers build it."
import hashlib
import importlib
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch

from cfg_lessons.diffusion import NULL
from cfg_lessons.networks import timestep
from cfg_lessons.unet import UNet


def is_installed(
    package,  # name of a package
):
    "Whether it is installed."
    return importlib.util.find_spec(package) is not None


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


def class_row(
    label,  # classes or NULL, (B,)
    config,  # a UNetConfig
):
    "The row of each label in a table of classes whose last row is for NULL, (B,)."
    return label.where(label != NULL, config.num_classes)


class DiffusersDenoiser(torch.nn.Module):
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
        return self.net(z, timestep(logsnr), class_row(label, self.config)).sample


def ask_ours(
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
    def gd(net, z, logsnr, label): return net(z, timestep(logsnr), class_row(label, config))
    def df(net, z, logsnr, label): return gd(net, z, logsnr, label).sample
    found = {}
    if module: found['guided-diffusion'] = partial(in_guided_diffusion, module, config), gd
    if is_installed('diffusers'): found['diffusers'] = partial(in_diffusers, config), df
    return found | {'ours': (partial(UNet, config), ask_ours)}


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
