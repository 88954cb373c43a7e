"""Guidance in diffusion models, from points in the plane to ImageNet.

A whole experiment is one sentence, `final(sample(clipped(classifier_free(denoiser, w)), noise, label,
levels, step))`, and each of its words can be exchanged. The modules, from the ground floor up:

diffusion            log-SNR, schedules, NULL, the noise and the velocity
mixtures             labelled Gaussian mixtures with the exact denoiser
sampling             ddim, ancestral, heun, dpmpp_2m, clipped, noise for each example
networks, training   an MLP, heads; the loss with label dropout, the loop, EMA, files
classifier_guidance, classifier_free     the two ways of guiding
metrics, evaluation, records             FID, IS, KID, precision and recall, and where they are kept
images, unet         pictures in a repeatable order; the U-Net and the classifier of ADM
tilting, beyond      what guided sampling draws from; the methods after the paper
engine, parallel, checkpoints, logs, generation     training and sampling on many GPUs
pretrained           DiT, Stable Diffusion and OpenAI's networks as denoisers
checks               what is wrong with anybody's denoiser, sampler, guidance or loader
worlds, compare, diagnosis, page, bench     guidance rules beside each other: cfg-compare
sources, preparation, costs, features, recipes, commands, rules, imagenet     the commands cfg-...
plotting, lab, exercises, settings       for the notebooks

Each is taught in a notebook of nbs/, from which it is exported.
"""
__version__ = "0.1.0"
