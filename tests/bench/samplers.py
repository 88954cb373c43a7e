"Samplers around a network that costs nothing: what is left is their own time."
from functools import partial

import torch

from cfg_lessons.diffusion import cosine
from cfg_lessons.sampling import ancestral, ddim, dpmpp_2m, final, heun, sample

from .others import is_installed


def free_denoiser(
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
    if is_installed('diffusers'):
        import diffusers
        for name in ('DDIM', 'DDPM', 'EulerDiscrete', 'DPMSolverMultistep'):
            options = dict(clip_sample=False) if name.startswith('DD') else {}  # as ours
            scheduler = getattr(diffusers, f'{name}Scheduler')(**options)
            cases[f'diffusers, {name}'] = diffusers_sampler(scheduler, z, steps)
    if is_installed('denoising_diffusion_pytorch'):
        cases['denoising-diffusion-pytorch, DDIM'] = lucidrains_sampler(z, steps)
    def run(step): return lambda: final(sample(free_denoiser, z, label, levels, step))
    cases |= {'ours, ddim': run(ddim), 'ours, ancestral': run(partial(ancestral, mix=.3)),
              'ours, heun (two evaluations)': run(heun)}
    cases['ours, multistep'] = lambda: final(dpmpp_2m(free_denoiser, z, label, levels))
    return cases
