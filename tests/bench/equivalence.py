"Is our U-Net the network of guided-diffusion? Answers and gradients with the same weights."
import importlib
import sys
from dataclasses import replace

import numpy as np
import torch

from cfg_lessons.classifier_guidance import classifier_guided
from cfg_lessons.diffusion import NULL
from cfg_lessons.networks import timestep
from cfg_lessons.pretrained import OPENAI, TableStep, openai_levels, shifted_mean
from cfg_lessons.sampling import ancestral, clipped, final, sample
from cfg_lessons.unet import ADM64, ADM128, ADM256, UNet, UNetConfig

from .others import checkout, in_guided_diffusion, ask_ours, class_row, seeded_weights


def compared_shapes():
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


def sample_numbers(
    answer,  # a tensor
):
    "Twenty-four of its numbers, from all over it, a list."
    return answer.flatten()[::answer.numel()//24][:24].tolist()


def relative_difference(
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
        known = dict(y=class_row(label, config)) if config.num_classes else {}
        return net(z, timestep(logsnr), **known)
    theirs = seeded_weights(in_guided_diffusion(module, config)).eval()
    answer, by_picture, wanted = probe(theirs, config, gd, batch)
    names = list(theirs.state_dict())
    del theirs
    net = seeded_weights(UNet(config)).eval()
    mine = probe(net, config, ask_ours, batch)
    off = max((g - mine[2][k]).abs().max().item() for k, g in wanted.items())
    return dict(parameters=sum(p.numel() for p in net.parameters()), batch=batch,
                same_names=list(net.state_dict()) == names,
                answer=relative_difference(answer, mine[0]),
                gradient=relative_difference(by_picture, mine[1]),
                parameter_gradients=off/max(g.abs().max().item() for g in wanted.values()),
                numbers=sample_numbers(mine[0]))


def schedule_difference(
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


def equivalence(
    path,  # folder of a checkout of guided-diffusion
):
    "The comparison of answers with guided-diffusion: the facts of its record."
    module, cases = checkout(path), {}
    for name, config in compared_shapes().items():
        cases[name] = compare(config, module, 1 if config.side > 64 else 2)
        sys.stderr.write(f'{name}: {cases[name]["answer"]:.0e}\n')
    return dict(bench='equivalence', what='answers', cases=cases,
                tables_apart=schedule_difference(path))


def sampling_equivalence(
    path,  # folder of a checkout of guided-diffusion
    T=50,  # steps, of its table of 1,000
):
    """How far samples of guided-diffusion's loop and ours are apart, for three weights of a
    classifier: with the order of the original, and with ours. The facts of a record."""
    checkout(path)
    theirs, respace = (importlib.import_module(f'guided_diffusion.{m}')
                       for m in ('gaussian_diffusion', 'respace'))
    torch.manual_seed(0)
    mix, read = torch.nn.Conv2d(3, 3, 3, padding=1), torch.nn.Linear(3*64, 10)
    def network(x, t, y=None): return mix(x)*torch.cos(t/1000)[:, None, None, None] + .7*x
    def names(x, t): return read(x.flatten(1))*(1 + t/1000)[:, None]
    kept = respace.space_timesteps(1000, [T])
    loop = respace.SpacedDiffusion(use_timesteps=kept,
                                   betas=theirs.get_named_beta_schedule('linear', 1000),
                                   model_mean_type=theirs.ModelMeanType.EPSILON,
                                   model_var_type=theirs.ModelVarType.FIXED_SMALL,
                                   loss_type=theirs.LossType.MSE)
    label, table, cases = torch.tensor([3, 5]), openai_levels('linear'), {}
    tell, levels = TableStep(table), torch.tensor([*table[sorted(kept)[::-1]], float('inf')])
    def denoiser(z, logsnr, label): return network(z, tell(logsnr).round())
    def classifier(z, logsnr): return names(z, tell(logsnr).round())
    for w in (0., 1., 4.):
        def slope(x, t, y=None):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                own = names(x, t).log_softmax(1)[range(2), label]
                return w*torch.autograd.grad(own.sum(), x)[0]
        z = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        torch.manual_seed(7)
        wanted = loop.p_sample_loop(network, z.shape, noise=z, clip_denoised=True, device='cpu',
                                    cond_fn=slope, model_kwargs=dict(y=label))
        after = shifted_mean(classifier, w)
        inside = clipped(classifier_guided(denoiser, classifier, w))
        for name, d, step in [('guided after the clip', clipped(denoiser), after),
                              ('guided before the clip', inside, ancestral)]:
            torch.manual_seed(7)
            x = final(sample(d, z, label, levels, step))
            cases[f'{name}, w = {w:g}'] = dict(difference=(x - wanted).abs().max().item())
    return dict(bench='equivalence', what='sampling', T=T, cases=cases)
