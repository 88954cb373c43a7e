"""Laws that hold for all: hypothesis chooses the batches, levels, classes, weights and cuts.

Each test compares the library with a closed form, with another library, or with itself along
another way."""
import math
import random
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from cfg_lessons import beyond, metrics, tilting
from cfg_lessons.classifier_free import (batched_cfg, classifier_free, extrapolate, guide,
                                         unconditional)
from cfg_lessons.classifier_guidance import class_gradient, classifier_guided
from cfg_lessons.diffusion import (alpha_sigma, cosine, diffuse, eps_from_velocity, flow,
                                   linear_beta, log_linear, predict_eps, predict_x, score, velocity)
from cfg_lessons.images import batches, from_uint8, prefetch, random_flip, shuffled, to_uint8
from cfg_lessons.mixtures import (exact_denoiser, exact_score, gaussian_mixture, log_density,
                                  log_posterior, sample_mixture)
from cfg_lessons.networks import VHead, noise_embedding, timestep
from cfg_lessons.sampling import (ancestral, ancestral_std, clipped, ddim, dpmpp_2m, final, heun,
                                  per_example_noise, sample)
from cfg_lessons.training import (EMA, derive_seed, drop_label, sigmoid_weight, velocity_weight,
                                  warmup)

seeds = st.integers(0, 2**31)
levels = st.floats(-12, 12)
weights = st.floats(-3, 8)
steps = st.sampled_from([ddim, heun, partial(ancestral, mix=.3)])
schedules = st.sampled_from([cosine, linear_beta, log_linear, flow])
close = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-7)
nearly = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-5)
roughly = partial(torch.testing.assert_close, rtol=1e-3, atol=1e-2)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

def everywhere(level, z):
    return torch.full((len(z),), level, dtype=torch.float64)

def null(label):
    return torch.full_like(label, -1)

def toy(z, logsnr, label):
    "A denoiser that depends on everything it is told, and treats each row by itself."
    return z.tanh() + .3*torch.cos(label.to(z) + logsnr)[:, None]*z.roll(1, 1)

@st.composite
def noisy(draw, rows=6):
    "A batch z (rows, 3) in float64, its levels and classes among 0, 1, 2."
    seed = draw(seeds)
    logsnr = torch.tensor([draw(levels) for _ in range(rows)], dtype=torch.float64)
    return normal(seed, rows, 3)*2, logsnr, torch.arange(rows) % 3

@st.composite
def mixtures(draw):
    "A mixture of 3 to 6 components in the plane, in up to three classes, and its covariances."
    seed, k, classes = draw(seeds), draw(st.integers(3, 6)), draw(st.integers(1, 3))
    root = normal(seed, k, 2, 2)
    cov = root @ root.mT + .05*torch.eye(2)
    weight = normal(seed + 1, k).exp()
    return gaussian_mixture(normal(seed + 2, k, 2), cov, torch.arange(k) % classes, weight), cov


# Noise levels and the three ways to say what a network predicts

@given(noisy())
def test_signal_and_noise_have_power_one_and_the_ratio_asked_for(batch):
    z, logsnr, _ = batch
    alpha, sigma = alpha_sigma(logsnr, z)
    close(alpha**2 + sigma**2, torch.ones_like(alpha))
    close(2*(alpha/sigma).log()[:, 0], logsnr)

@given(noisy(), seeds)
def test_eps_x_and_v_are_recovered_from_each_other(batch, seed):
    x, logsnr, _ = batch
    eps = normal(seed, *x.shape)
    z = diffuse(x, logsnr, eps)
    tight = partial(torch.testing.assert_close, rtol=1e-7, atol=1e-6)
    tight(predict_x(z, logsnr, eps), x), tight(predict_eps(z, logsnr, x), eps)
    tight(eps_from_velocity(z, logsnr, velocity(x, logsnr, eps)), eps)
    tight(predict_x(z, logsnr, eps_from_velocity(z, logsnr, velocity(x, logsnr, eps))), x)

@given(noisy())
def test_rotation_by_the_velocity_keeps_the_length(batch):
    "(z, v) is (x, eps) turned by an angle, so |z|^2 + |v|^2 = |x|^2 + |eps|^2."
    x, logsnr, _ = batch
    eps = x.flip(0)
    z, v = diffuse(x, logsnr, eps), velocity(x, logsnr, eps)
    close(z**2 + v**2, x**2 + eps**2)

@given(noisy())
def test_score_of_standard_normal_data_is_minus_z(batch):
    z, logsnr, _ = batch
    close(score(logsnr, alpha_sigma(logsnr, z)[1]*z), -z)

@given(noisy())
def test_a_velocity_head_answers_the_noise_of_its_velocity(batch):
    z, logsnr, label = batch
    x, eps = z.flip(1), z.roll(1, 0)
    head = VHead(lambda *_: velocity(x, logsnr, eps))
    nearly(head(diffuse(x, logsnr, eps), logsnr, label), eps)

@given(schedules, st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True))
def test_schedules_never_rise_in_time(schedule, times):
    logsnr = schedule(torch.tensor(sorted(times), dtype=torch.float64))
    assert (logsnr.diff() <= 0).all() and logsnr.isfinite().all()

@given(st.floats(-30, -1), st.floats(1, 30))
def test_the_cosine_schedule_is_exact_at_its_ends_and_straight_in_the_angle(low, high):
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    logsnr = cosine(t, low, high)
    close(logsnr[[0, -1]], torch.tensor([high, low], dtype=torch.float64), atol=1e-6)
    angle = (-logsnr/2).exp().atan()
    close(angle.diff(), angle.diff().mean().expand(8))

@given(st.floats(.001, .5), st.floats(2, 100), st.floats(0, 1))
def test_the_edm_schedule_is_exact_at_its_ends_and_straight_in_the_logarithm(low, high, t):
    got = log_linear(torch.tensor([0., 1., t], dtype=torch.float64), low, high)
    start, end = -2*math.log(low), -2*math.log(high)
    close(got, torch.tensor([start, end, start + t*(end - start)], dtype=torch.float64))

@given(st.floats(.01, 1), st.floats(5, 30), st.floats(.01, 1))
def test_the_ddpm_schedule_integrates_its_noise_rate(low, high, t):
    "-log alpha^2 is the integral of beta from 0 to t; here by the trapezoid rule."
    times = torch.linspace(0, t, 1001, dtype=torch.float64)
    wanted = torch.trapezoid(low + (high - low)*times, times)
    logsnr = linear_beta(torch.tensor([t], dtype=torch.float64), low, high, 99.)
    close(-logsnr.sigmoid().log()[0], wanted)

@given(st.floats(.001, .999))
def test_the_flow_schedule_mixes_x_and_eps_in_a_straight_line(t):
    logsnr = flow(torch.tensor([t], dtype=torch.float64))
    alpha, sigma = alpha_sigma(logsnr, torch.ones(1, 1).double())
    close(sigma/(alpha + sigma), torch.full((1, 1), t, dtype=torch.float64))

@given(st.floats(.01, .99))
def test_timestep_inverts_the_cosine_schedule(t):
    logsnr = -2*torch.tensor([math.pi*t/2]).tan().log()
    torch.testing.assert_close(timestep(logsnr), torch.tensor([1000*t]), rtol=1e-4, atol=1e-2)

@given(noisy(), st.sampled_from([2, 8, 32]))
def test_the_noise_embedding_has_length_root_of_half_its_width(batch, width):
    "cos^2 + sin^2 = 1 for each of dim/2 frequencies."
    emb = noise_embedding(batch[1], width)
    assert emb.shape == (6, width)
    torch.testing.assert_close(emb.square().sum(1), torch.full((6,), width/2), rtol=1e-5, atol=1e-5)


# Mixtures, where every answer is known

def as_distribution(mixture, cov, level, keep):
    "The diffused components that are kept, as PyTorch's own mixture."
    alpha2, sigma2 = 1/(1 + math.exp(-level)), 1/(1 + math.exp(level))
    spread = alpha2*cov[keep] + sigma2*torch.eye(2)
    parts = MultivariateNormal(alpha2**.5*mixture.mean[keep], spread)
    return MixtureSameFamily(Categorical(mixture.weight[keep]), parts)

@given(mixtures(), levels, seeds)
def test_density_is_that_of_torch_distributions(made, level, seed):
    (mixture, cov), z = made, 2*normal(seed, 5, 2)
    label, logsnr = torch.zeros(5).long(), everywhere(level, z)
    own = as_distribution(mixture, cov, level, mixture.label == 0)
    close(log_density(mixture, z, logsnr, label), own.log_prob(z), rtol=1e-6)
    everyone = as_distribution(mixture, cov, level, mixture.label >= 0)
    close(log_density(mixture, z, logsnr, null(label)), everyone.log_prob(z), rtol=1e-6)

@given(mixtures(), levels, seeds)
def test_posterior_obeys_bayes(made, level, seed):
    "log p(c | z) = log q(z | c) + log p(c) - log q(z), and over the classes it sums to one."
    mixture, z = made[0], 2*normal(seed, 5, 2)
    logsnr, posterior = everywhere(level, z), log_posterior(mixture, z, everywhere(level, z))
    close(posterior.exp().sum(1), torch.ones(5).double())
    for c in range(mixture.num_classes):
        label = torch.full((5,), c)
        prior = mixture.weight[mixture.label == c].sum().log()
        joint = log_density(mixture, z, logsnr, label) + prior
        close(posterior[:, c], joint - log_density(mixture, z, logsnr, null(label)), rtol=1e-6)

@given(mixtures(), levels, seeds)
def test_score_is_the_gradient_of_the_log_density(made, level, seed):
    mixture, z = made[0], (2*normal(seed, 6, 2)).requires_grad_()
    label = torch.arange(6) % mixture.num_classes
    for asked in (label, null(label)):
        slope, = torch.autograd.grad(log_density(mixture, z, everywhere(level, z), asked).sum(), z)
        close(exact_score(mixture, z, everywhere(level, z), asked), slope, rtol=1e-6)

@given(mixtures(), st.floats(-6, 6), seeds)
def test_exact_denoiser_of_one_gaussian_is_its_posterior_mean(made, level, seed):
    "E[x | z] = mean + alpha cov (alpha^2 cov + sigma^2)^-1 (z - alpha mean)."
    (mixture, cov), z = made, normal(seed, 5, 2)
    alone = gaussian_mixture(mixture.mean[:1], cov[:1], torch.tensor([0]))
    logsnr = everywhere(level, z)
    alpha, sigma = (v.item() for v in (logsnr[0].sigmoid().sqrt(), (-logsnr[0]).sigmoid().sqrt()))
    gain = alpha*cov[0] @ torch.linalg.inv(alpha**2*cov[0] + sigma**2*torch.eye(2))
    wanted = mixture.mean[0] + (z - alpha*mixture.mean[0]) @ gain.T
    eps = exact_denoiser(alone)(z, logsnr, torch.zeros(5).long())
    close(predict_x(z, logsnr, eps), wanted, rtol=1e-5, atol=1e-6)

@given(mixtures(), levels, seeds)
def test_order_and_scale_of_the_components_do_not_matter(made, level, seed):
    (mixture, cov), z, turn = made, normal(seed, 5, 2), torch.arange(len(made[1])).flip(0)
    weight, mean, label = (v[turn] for v in (mixture.weight, mixture.mean, mixture.label))
    other = gaussian_mixture(mean, cov[turn], label, 7*weight)
    label = torch.arange(5) % mixture.num_classes
    args = z, everywhere(level, z), label
    close(log_density(other, *args), log_density(mixture, *args), rtol=1e-6)

@settings(max_examples=5)
@given(mixtures(), seeds)
def test_samples_have_the_moments_and_classes_of_their_mixture(made, seed):
    (mixture, cov), n = made, 40_000
    x, label = sample_mixture(mixture, n, seed)
    mean = mixture.weight @ mixture.mean
    apart = mixture.mean - mean
    spread = (mixture.weight[:, None, None]*(cov + apart[:, :, None]*apart[:, None])).sum(0)
    noise = 6*(spread.diagonal().max()/n)**.5
    assert (x.double().mean(0) - mean).abs().max() < noise
    assert (x.double().T.cov() - spread).abs().max() < 12*spread.abs().max()/n**.5*3**.5
    share = torch.bincount(mixture.label, mixture.weight)
    assert (label.bincount()/n - share).abs().max() < 3/n**.5


# Guidance

@given(noisy(), weights)
def test_guidance_is_a_straight_line_from_weak_to_strong(batch, w):
    "At -1 the weak answer, at 0 the strong one, at w the point beyond by w times their difference."
    a, b = batch[0], batch[0].flip(0)
    assert guide(a, b, 0.).equal(a) and guide(a, b, -1.).equal(b)
    close(guide(a, b, w), a + w*(a - b))

@given(noisy(), steps, levels)
def test_every_step_is_conditional_at_weight_0_and_unconditional_at_minus_1(batch, step, rise):
    (z, logsnr, label), noise = batch, lambda z: z.flip(0)
    run = lambda denoiser: step(denoiser, z, logsnr, logsnr + abs(rise) + .1, label, noise)
    assert run(classifier_free(toy, 0.)).equal(run(toy))
    close(run(classifier_free(toy, -1.)), run(unconditional(toy)))
    close(run(batched_cfg(toy, -1.)), run(unconditional(toy)))

@given(noisy())
def test_the_multistep_sampler_keeps_the_two_identities_of_guidance(batch):
    (z, _, label), logsnrs = batch, cosine(torch.linspace(.9, .1, 6).double())
    run = lambda denoiser: final(dpmpp_2m(denoiser, z, label, logsnrs))
    assert run(classifier_free(toy, 0.)).equal(run(toy))
    close(run(classifier_free(toy, -1.)), run(unconditional(toy)))

@given(noisy(), weights)
def test_guidance_in_one_batch_is_guidance_in_two_calls(batch, w):
    close(batched_cfg(toy, w)(*batch), classifier_free(toy, w)(*batch))

@given(noisy(), weights)
def test_unconditional_does_not_see_the_label(batch, w):
    z, logsnr, label = batch
    assert unconditional(toy)(z, logsnr, label).equal(unconditional(toy)(z, logsnr, label.flip(0)))
    assert unconditional(toy)(z, logsnr, label).equal(toy(z, logsnr, null(label)))

@given(mixtures(), st.floats(-6, 6), st.floats(-1, 5), seeds)
def test_the_best_classifier_guides_as_classifier_free_guidance_does(made, level, w, seed):
    "grad log p(c | z) = grad log q(z | c) - grad log q(z), so both guided noises are equal."
    mixture, z = made[0], normal(seed, 6, 2)
    label, logsnr = torch.arange(6) % mixture.num_classes, everywhere(level, z)
    denoiser, classifier = exact_denoiser(mixture), partial(log_posterior, mixture)
    slope = class_gradient(classifier, z, logsnr, label)
    wanted = exact_score(mixture, z, logsnr, label) - exact_score(mixture, z, logsnr, null(label))
    close(slope, wanted, rtol=1e-6, atol=1e-6)
    if mixture.num_classes == 1: return  # its classifier ignores everything, and is refused
    guided = classifier_guided(denoiser, classifier, w)(z, logsnr, label)
    close(guided, classifier_free(denoiser, w)(z, logsnr, label), rtol=1e-6, atol=1e-6)


# Samplers

def point_mass(at):
    "The exact denoiser of data that is one point."
    return lambda z, logsnr, label: predict_eps(z, logsnr, at.expand_as(z))

@given(noisy(), st.sampled_from([ddim, heun]), levels)
def test_deterministic_steps_are_exact_where_the_data_is_one_point(batch, step, there):
    z, logsnr, label = batch
    x, eps = torch.tensor([1., -2., .5]).double(), z
    z, target = diffuse(x.expand_as(eps), logsnr, eps), everywhere(there, z)
    got = step(point_mass(x), z, logsnr, target, label)
    torch.testing.assert_close(got, diffuse(x.expand_as(eps), target, eps), rtol=1e-6, atol=1e-5)

@given(st.integers(2, 9), seeds)
def test_every_sampler_arrives_where_the_data_is_one_point(count, seed):
    z, x = normal(seed, 4, 3), torch.tensor([1., -2., .5]).double()
    label, logsnrs = torch.zeros(4).long(), cosine(torch.linspace(1, 0, count + 1).double())
    for run in [*(partial(sample, step=s) for s in (ddim, heun, ancestral)), dpmpp_2m]:
        states = list(run(point_mass(x), z, label, logsnrs))
        assert len(states) == count and (states[-1] - x).abs().max() < 1e-3

@given(levels, st.floats(.01, 8))
def test_an_ancestral_step_brings_a_point_to_the_next_noise_level(level, rise):
    "What is left of the old noise and the new noise have together the variance sigma_next^2."
    z, zero = torch.ones(1, 1).double(), torch.zeros(1, 1).double()
    here, there = everywhere(level, z), everywhere(level + rise, z)
    move = partial(ancestral, point_mass(zero[0]), logsnr=here, logsnr_next=there, label=None)
    kept = move(alpha_sigma(here, z)[1], noise=torch.zeros_like)
    added = move(zero, noise=torch.ones_like)
    close(kept**2 + added**2, alpha_sigma(there, z)[1]**2)

@given(levels, st.floats(.01, 8), seeds)
def test_the_mean_of_an_ancestral_step_is_that_of_z_next_given_z_and_x(level, rise, seed):
    "By Gaussian conditioning alpha' x + alpha/alpha' (sigma'/sigma)^2 (z - alpha x), then noise."
    x, z = normal(seed, 2, 1, 1)
    here, there = everywhere(level, z), everywhere(level + rise, z)
    (a, s), (a_next, s_next) = alpha_sigma(here, z), alpha_sigma(there, z)
    wanted = a_next*x + a/a_next*(s_next/s)**2*(z - a*x)
    step = partial(ancestral, point_mass(x[0]), z, here, there, None)
    nearly(step(torch.zeros_like), wanted)
    nearly(step(torch.ones_like), wanted + ancestral_std(z, here, there))

@given(levels, st.floats(.01, 8), st.floats(0, 1))
def test_the_ancestral_spread_lies_between_its_two_ends_in_the_logarithm(level, rise, mix):
    z = torch.ones(1, 1).double()
    spread = partial(ancestral_std, z, everywhere(level, z), everywhere(level + rise, z))
    close(spread(1.), (1 - math.exp(-rise))**.5*alpha_sigma(everywhere(level, z), z)[1])
    close(spread(mix).log(), (1 - mix)*spread(0.).log() + mix*spread(1.).log())

ORDERS = [(partial(sample, step=ddim), 1), (partial(sample, step=heun), 2), (dpmpp_2m, 2)]

@pytest.mark.parametrize('run, order', ORDERS, ids=['ddim', 'heun', 'dpmpp_2m'])
def test_samplers_converge_with_their_order(run, order):
    "For Gaussian data the exact flow stretches z by the ratio of its spreads."
    s, z, label = .3, torch.ones(1, 1).double(), torch.zeros(1).long()
    spread = lambda l: math.sqrt(s**2/(1 + math.exp(-l)) + 1/(1 + math.exp(l)))
    def gaussian(z, logsnr, label):
        alpha, sigma = alpha_sigma(logsnr, z)
        return sigma*z/(alpha**2*s**2 + sigma**2)
    def error(count):
        logsnrs = torch.linspace(-5, 5, count + 1).double()
        return abs(final(run(gaussian, z, label, logsnrs)).item() - spread(5)/spread(-5))
    assert math.log2(error(64)/error(128)) == pytest.approx(order, abs=.25)

@given(noisy(), st.floats(.1, 3))
def test_clipping_bounds_the_prediction_and_leaves_the_rest_bit_for_bit(batch, limit):
    z, logsnr, label = batch
    x_hat = predict_x(z, logsnr, toy(*batch))
    got = clipped(toy, limit)(*batch)
    inside = x_hat.abs() <= limit
    assert got[inside].equal(toy(*batch)[inside])
    nearly(predict_x(z, logsnr, got), x_hat.clamp(-limit, limit))

@given(st.integers(0, 2**64 - 1), st.sets(st.integers(0, 2**40), min_size=2, max_size=6), seeds)
def test_noise_of_an_example_depends_on_nothing_but_seed_and_index(seed, index, turn):
    index = sorted(index)
    order = random.Random(turn).sample(range(len(index)), len(index))
    one, two = per_example_noise(seed, index), per_example_noise(seed, [index[i] for i in order])
    like = torch.empty(len(index), 3)
    for _ in range(2): assert one(like)[order].equal(two(like))
    assert len(one(like).unique()) == 3*len(index)


# Methods after the paper: each is plain guidance at one setting of its knobs

PLAIN = dict(rescaled=partial(beyond.rescaled, phi=0.), apg=partial(beyond.apg, eta=1.),
             zero_star=partial(beyond.zero_star, zero_init_share=0., project=False),
             scheduled=lambda d, w: beyond.scheduled(d, lambda logsnr: torch.full_like(logsnr, w)),
             extrapolate=lambda d, w: extrapolate(d, unconditional(d), w))

@pytest.mark.parametrize('name', PLAIN)
@given(batch=noisy(), w=weights)
def test_each_method_is_plain_guidance_at_one_setting(name, batch, w):
    got = PLAIN[name](toy, w)(*batch)
    torch.testing.assert_close(got, classifier_free(toy, w)(*batch), rtol=1e-6, atol=1e-5)

@given(noisy(), weights, st.floats(-6, 0), st.floats(0, 6))
def test_an_interval_guides_inside_and_costs_nothing_outside(batch, w, low, high):
    z, logsnr, label = batch
    got = beyond.scheduled(toy, beyond.interval(w, low, high))(*batch)
    inside = ((logsnr >= low) & (logsnr < high))[:, None]
    close(got, torch.where(inside, classifier_free(toy, w)(*batch), toy(*batch)))

@given(st.floats(-2, 5), st.sampled_from([beyond.linear_weight, beyond.cosine_weight]))
def test_rising_weights_have_the_mean_asked_for_and_end_at_twice_of_it(w, rule):
    t = torch.linspace(0, 1, 2001)
    weight = rule(w)(cosine(t, -40., 40.))
    assert torch.trapezoid(weight, t).item() == pytest.approx(w, abs=1e-3)
    assert weight[[0, -1]].tolist() == pytest.approx([2*w, 0], abs=1e-3)

@given(noisy(), st.floats(.1, 5))
def test_full_rescaling_gives_the_spread_of_the_conditional_prediction(batch, w):
    got, eps = beyond.rescaled(toy, w, phi=1.)(*batch), toy(*batch)
    close(got.std(1), eps.std(1))
    guided = classifier_free(toy, w)(*batch)
    half = beyond.rescaled(toy, w, phi=.5)(*batch)
    close(half, (guided + got)/2)

@given(noisy())
def test_the_lowest_threshold_is_clipping(batch):
    nearly(beyond.thresholded(toy, 0.)(*batch), clipped(toy)(*batch))

@given(noisy())
def test_the_highest_threshold_scales_each_prediction_into_the_cube(batch):
    z, logsnr, label = batch
    got = predict_x(z, logsnr, beyond.thresholded(toy, 1.)(*batch))
    x_hat = predict_x(z, logsnr, toy(*batch))
    nearly(got, x_hat/x_hat.abs().amax(1, keepdim=True).clamp(min=1))

@given(noisy(), st.floats(.1, 5))
def test_projected_guidance_moves_the_prediction_at_right_angles(batch, w):
    z, logsnr, label = batch
    x_hat = predict_x(z, logsnr, toy(*batch))
    push = predict_x(z, logsnr, beyond.apg(toy, w)(*batch)) - x_hat
    assert ((push*x_hat).sum(1).abs() <= 1e-5*(1 + push.norm(dim=1)*x_hat.norm(dim=1))).all()

@given(noisy(), st.floats(.1, 5), st.floats(.01, 2))
def test_the_push_of_projected_guidance_is_no_longer_than_its_radius(batch, w, radius):
    z, logsnr, label = batch
    push = lambda f: predict_x(z, logsnr, f(*batch)) - predict_x(z, logsnr, toy(*batch))
    free, bound = (push(beyond.apg(toy, w, eta=1., radius=r)) for r in (math.inf, radius))
    wanted = free*(w*radius/free.norm(dim=1, keepdim=True).clamp(min=1e-12)).clamp(max=1)
    torch.testing.assert_close(bound, wanted, rtol=1e-4, atol=1e-5)

@given(noisy(), st.floats(.1, 3), st.floats(-.9, .9))
def test_momentum_adds_the_push_of_before(batch, w, momentum):
    z, logsnr, label = batch
    push = lambda eps: predict_x(z, logsnr, eps) - predict_x(z, logsnr, toy(*batch))
    once = push(beyond.apg(toy, w, eta=1.)(*batch))
    f = beyond.apg(toy, w, eta=1., momentum=momentum)
    for total in (1, 1 + momentum, 1 + momentum + momentum**2):
        torch.testing.assert_close(push(f(*batch)), total*once, rtol=1e-4, atol=1e-4)

@given(noisy(), st.floats(.1, 4))
def test_cfg_plus_plus_denoises_with_one_answer_and_renoises_with_the_other(batch, rise):
    z, logsnr, label = batch
    there = logsnr + rise
    none = beyond.cfg_plus_plus(toy, z, logsnr, there, label, kappa=0.)
    close(none, ddim(unconditional(toy), z, logsnr, there, label))
    full = beyond.cfg_plus_plus(toy, z, logsnr, there, label, kappa=1.)
    wanted = diffuse(predict_x(z, logsnr, toy(*batch)), there, unconditional(toy)(*batch))
    close(full, wanted)

@given(noisy(), st.floats(0, 5))
def test_zero_star_scales_the_unconditional_velocity_to_the_nearest(batch, w):
    """In velocities u = eps - x: guided = (1 + w) u - w s u_null, with u - s u_null at right angles
    to u_null."""
    z, logsnr, label = batch
    f = lambda eps: eps - predict_x(z, logsnr, eps)
    u, u_null = f(toy(*batch)), f(unconditional(toy)(*batch))
    s = (u*u_null).sum(1, keepdim=True)/(u_null**2).sum(1, keepdim=True)
    got = f(beyond.zero_star(toy, w, zero_init_share=0.)(*batch))
    torch.testing.assert_close(got, (1 + w)*u - w*s*u_null, rtol=1e-4, atol=1e-4)

@given(noisy(), st.floats(.01, .5))
def test_zero_star_stands_still_in_its_first_share(batch, share):
    z, logsnr, label = batch
    alpha, sigma = alpha_sigma(logsnr, z)
    first = (sigma/(alpha + sigma) > 1 - share)[:, 0]
    got = beyond.zero_star(toy, 1., zero_init_share=share)(*batch)
    close(got[first], (z/(alpha + sigma))[first])
    rest = beyond.zero_star(toy, 1., zero_init_share=0.)(*batch)
    close(got[~first], rest[~first])


# Tilting

@given(seeds)
def test_the_jacobian_is_that_of_reverse_mode(seed):
    z = normal(seed, 4, 3)
    f = lambda z: z.sin()*z.roll(1, 1) + z**2
    value, slopes = tilting.value_and_jacobian(f, z)
    one = lambda row: f(row[None])[0]
    wanted = torch.stack([torch.autograd.functional.jacobian(one, row) for row in z])
    close(value, f(z)), close(slopes, wanted)

@settings(max_examples=4)
@given(st.floats(.3, 2), st.floats(.3, 2), seeds)
def test_the_density_of_the_flow_is_that_of_a_gaussian(a, b, seed):
    cov = torch.diag(torch.tensor([a, b]).double()**2)
    mixture = gaussian_mixture(torch.zeros(1, 2), cov[None], torch.tensor([0]))
    x, label = normal(seed, 4, 2) @ cov.sqrt(), torch.zeros(4).long()
    logsnrs = cosine(torch.linspace(1, 0, 33).double())
    got = tilting.flow_log_density(exact_denoiser(mixture), x, label, logsnrs)
    roughly(got, MultivariateNormal(torch.zeros(2).double(), cov).log_prob(x))

def test_the_density_of_the_flow_converges_with_order_two():
    "Up to log-SNR 1 only, so that the errors of both ends do not cancel."
    mixture = gaussian_mixture(torch.zeros(1, 1), torch.tensor([[[.3**2]]]), torch.tensor([0]))
    x, label = torch.tensor([[.2]]).double(), torch.tensor([0])
    def error(count):
        logsnrs = cosine(torch.linspace(1, 0, count + 1).double(), -16., 1.)
        got = tilting.flow_log_density(exact_denoiser(mixture), x, label, logsnrs)
        std = math.sqrt(.3**2/(1 + math.exp(-1)) + 1/(1 + math.exp(1)))
        return abs(got - torch.distributions.Normal(0., std).log_prob(x[:, 0])).item()
    assert math.log2(error(16)/error(32)) == pytest.approx(2, abs=.4)

@given(st.floats(-3, 3), st.floats(.2, 3), seeds)
def test_the_density_of_a_linear_sampler_is_that_of_a_gaussian(shift, scale, seed):
    z = normal(seed, 4, 2)
    x, log_p = tilting.sampler_log_density(lambda z: shift + scale*z, z)
    mean, cov = torch.full((2,), shift).double(), scale**2*torch.eye(2).double()
    nearly(log_p, MultivariateNormal(mean, cov).log_prob(x))

@given(seeds, st.integers(1, 40))
def test_systematic_resampling_gives_each_particle_its_share_up_to_one(seed, n):
    log_weight = 2*normal(seed, n)
    torch.manual_seed(seed)
    rows = tilting.systematic_resample(log_weight)
    assert rows.shape == (n,) and (rows.diff() >= 0).all()
    assert (rows.bincount(minlength=n) - n*log_weight.softmax(0)).abs().max() < 1

@given(st.floats(.01, .5), levels, seeds)
def test_a_langevin_step_goes_up_the_score_and_adds_its_noise(size, level, seed):
    z, label = normal(seed, 4, 3), torch.zeros(4).long()
    logsnr = everywhere(level, z)
    variance = 1/(1 + math.exp(level))
    got = tilting.langevin(toy, z, logsnr, label, size, lambda z: z.flip(0))
    drift = size*variance*score(logsnr, toy(z, logsnr, label))
    close(got, z + drift + math.sqrt(2*size*variance)*z.flip(0))

@given(noisy(), st.integers(0, 3))
def test_a_predictor_corrector_is_its_step_and_then_langevin_steps(batch, repeats):
    z, logsnr, label = batch
    there, still = logsnr + 1, torch.zeros_like
    step = tilting.predictor_corrector(ddim, toy, repeats, .2)
    got = step(unconditional(toy), z, logsnr, there, label, still)
    z = ddim(unconditional(toy), z, logsnr, there, label)
    for _ in range(repeats): z = tilting.langevin(toy, z, there, label, .2, still)
    close(got, z)

@given(seeds)
def test_without_guidance_tilted_sampling_has_equal_weights(seed):
    z, label, logsnrs = normal(seed, 6, 3), torch.arange(6) % 2, torch.linspace(-4, 4, 5).double()
    step = lambda d, z, a, b, label, noise: ddim(d, z, a, b, label)
    tilted = list(tilting.sample_tilted(toy, z, label, logsnrs, 0., step))
    for (got, weight), want in zip(tilted, sample(toy, z, label, logsnrs), strict=True):
        assert got.equal(want) and not weight.any()

@given(seeds, st.floats(.1, 2))
def test_weights_of_tilted_sampling_grow_with_the_squared_difference_of_the_scores(seed, w):
    "w (1 + w) |score - score_null|^2 (log alpha_next - log alpha); Skreta et al. 2025."
    z, label, a, b = normal(seed, 6, 3), torch.arange(6) % 2, -2., -1.5
    logsnrs, logsnr = torch.tensor([a, b]).double(), everywhere(a, z)
    (_, got), = tilting.sample_tilted(toy, z, label, logsnrs, w, ess_threshold=0.)
    apart = (toy(z, logsnr, label) - toy(z, logsnr, null(label)))*math.sqrt(1 + math.exp(a))
    rise = -(math.log1p(math.exp(-b)) - math.log1p(math.exp(-a)))/2
    torch.testing.assert_close(got.double(), w*(1 + w)*(apart**2).sum(1)*rise, rtol=1e-4, atol=1e-5)


# Metrics: neither the order nor the cut into batches may matter

@st.composite
def features(draw):
    "Two sets (12, 3) and (15, 3), the second moved a little."
    seed = draw(seeds)
    return normal(seed, 12, 3), normal(seed + 1, 15, 3) + draw(st.floats(-1, 1))

@st.composite
def cuts(draw, n):
    "n split into pieces of at least one."
    places = sorted(draw(st.sets(st.integers(1, n - 1))))
    return [b - a for a, b in zip([0, *places], [*places, n])]

@given(features(), cuts(12))
def test_moments_are_those_of_numpy_however_they_are_cut(pair, sizes):
    gathered = metrics.Moments(3)
    for part in pair[0].split(sizes): assert gathered.add(part) is gathered
    close(gathered.mean, torch.from_numpy(pair[0].numpy().mean(0)))
    close(gathered.cov, torch.from_numpy(np.cov(pair[0].numpy().T)))

@given(seeds, cuts(12), st.integers(1, 4))
def test_inception_scores_do_not_depend_on_the_cut(seed, sizes, splits):
    p = (2*normal(seed, 12, 4)).softmax(1)
    sums = metrics.ScoreSums(12, splits, seed=None)
    for part in p.split(sizes): sums.add(part)
    parts = [p[i*12//splits:(i + 1)*12//splits] for i in range(splits)]
    one = lambda q: (q*(q/q.mean(0)).log()).sum(1).mean().exp()
    close(sums.scores(), torch.stack([one(q) for q in parts]))
    close(sums.scores(together=True), one(p)[None])
    close(metrics.inception_score(p, 1), one(p)[None])

@given(features(), seeds)
def test_sample_measures_do_not_depend_on_the_order(pair, seed):
    x, y = pair
    turned = x[random.Random(seed).sample(range(12), 12)]
    for measure in (metrics.kernel_distance, metrics.precision_recall, metrics.coverage):
        assert measure(turned, y) == pytest.approx(measure(x, y), abs=1e-9)
    sliced = metrics.sliced_wasserstein
    assert sliced(turned, y[:12]) == pytest.approx(sliced(x, y[:12]))

@given(features(), st.integers(1, 4))
def test_neighbours_precision_recall_and_coverage_are_what_counting_finds(pair, k):
    x, y = pair
    radius = lambda a: torch.stack([(p - a).norm(dim=1).sort().values[k] for p in a])
    inside = lambda p, a: bool(((p - a).norm(dim=1) <= radius(a)).any())
    share = lambda hits: sum(hits)/len(hits)
    close(metrics.knn_radii(x, k), radius(x))
    wanted = share([inside(p, x) for p in y]), share([inside(p, y) for p in x])
    assert metrics.precision_recall(x, y, k) == pytest.approx(wanted)
    reached = [bool((p - y).norm(dim=1).min() <= r) for p, r in zip(x, radius(x))]
    assert metrics.coverage(x, y, k) == pytest.approx(share(reached))

@given(features())
def test_the_kernel_distance_is_its_double_sum(pair):
    x, y = pair
    k = lambda a, b: (float(a @ b)/3 + 1)**3
    mean = lambda values: sum(values)/len(values)
    within = lambda s: mean([k(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j])
    wanted = within(x) + within(y) - 2*mean([k(a, b) for a in x for b in y])
    assert metrics.kernel_distance(x, y) == pytest.approx(wanted)

@given(seeds, st.floats(-3, 3))
def test_the_frechet_distance_of_gaussians_with_common_axes_is_known(seed, shift):
    "|m - n|^2 + sum of (sqrt a - sqrt b)^2 over the axes; the order of the two does not matter."
    axes = torch.linalg.qr(normal(seed, 3, 3))[0]
    a, b = normal(seed + 1, 3).exp(), normal(seed + 2, 3).exp()
    cov, other, mean = (axes*a) @ axes.T, (axes*b) @ axes.T, torch.zeros(3).double()
    wanted = 3*shift**2 + (a.sqrt() - b.sqrt()).square().sum().item()
    one, two = (mean, cov), (mean + shift, other)
    for pair in ((*one, *two), (*two, *one)):
        assert metrics.frechet_distance(*pair) == pytest.approx(wanted, abs=1e-6)

@given(features(), st.floats(-5, 5))
def test_the_sliced_distance_of_a_moved_line_is_the_move(pair, shift):
    line = pair[0][:, :1]
    assert metrics.sliced_wasserstein(line, line + shift) == pytest.approx(abs(shift), abs=1e-9)

@given(seeds, st.integers(2, 8), st.floats(.5, 3))
def test_total_variation_is_what_numpys_histogram_finds(seed, bins, limit):
    x, mass = normal(seed, 50, 2), normal(seed + 1, bins**2).softmax(0)*.9
    share = np.histogram2d(*x.T.numpy(), bins=bins, range=[[-limit, limit]]*2)[0].flatten()/50
    outside = 1 - share.sum() - .1
    wanted = (np.abs(share - mass.numpy()).sum() + abs(outside))/2
    assert metrics.total_variation(x, mass, limit) == pytest.approx(wanted)

@given(st.floats(-.5, .5), st.floats(.3, 1), st.integers(4, 20))
def test_cell_masses_are_differences_of_the_cumulative_distribution(centre, std, bins):
    one = torch.distributions.Normal(centre, std)
    got = metrics.cell_masses(lambda z: one.log_prob(z).sum(1), 3., bins)
    edge = one.cdf(torch.linspace(-3, 3, bins + 1).double()).diff()
    torch.testing.assert_close(got, torch.outer(edge, edge).flatten(), rtol=.1, atol=2e-3)


# Pictures and batches

def taken(n, **more):
    return [x.tolist() for x, _ in islice(batches(np.arange(10), np.arange(10), **more), n)]

@given(st.integers(0, 2**60), st.integers(0, 2**30))
def test_an_epoch_visits_every_example_once(seed, epoch):
    assert sorted(shuffled(10, seed, epoch)) == list(range(10))
    assert shuffled(10, seed, epoch).tolist() == shuffled(10, seed, epoch).tolist()
    assert shuffled(100, seed, epoch).tolist() != shuffled(100, seed, epoch + 1).tolist()

@given(seeds, st.integers(1, 13), st.integers(0, 9))
def test_a_batch_is_a_function_of_seed_and_number(seed, size, start):
    whole = taken(start + 3, batch_size=size, seed=seed)
    assert taken(3, batch_size=size, seed=seed, start=start) == whole[start:]

@given(seeds, st.integers(1, 13))
def test_batches_follow_the_shuffled_epochs_whatever_their_size(seed, size):
    stream = sum(taken(30//size + 1, batch_size=size, seed=seed), [])[:30]
    assert stream == [int(i) for e in range(3) for i in shuffled(10, seed, e)]

@given(seeds, st.integers(1, 4), st.integers(1, 3))
def test_shares_of_a_batch_make_up_the_batch(seed, ranks, each):
    size = ranks*each
    shares = [taken(4, batch_size=size, seed=seed, rank=r, ranks=ranks) for r in range(ranks)]
    assert [sum(parts, []) for parts in zip(*shares)] == taken(4, batch_size=size, seed=seed)

@given(seeds, st.sampled_from([1, 2, 3, 4]), st.integers(0, 5))
def test_mirroring_is_a_function_of_seed_and_place(seed, ranks, start):
    x, y = torch.arange(24).reshape(12, 1, 1, 2), torch.arange(12)
    whole = [p for p, _ in random_flip([(x, y)]*(start + 1), seed)][start]
    shares = [next(random_flip([(part, y)], seed, start, rank, ranks))[0]
              for rank, part in enumerate(x.split(12//ranks))]
    assert torch.cat(shares).equal(whole)
    assert ((whole == x) | (whole == x.flip(-1))).all()

@given(st.lists(st.integers(), max_size=8), st.integers(1, 12))
def test_prefetching_changes_nothing(values, n):
    assert list(prefetch(values, n)) == values

@given(st.floats(-3, 3))
def test_bytes_are_the_nearest_and_come_back_as_they_were(value):
    every = torch.arange(256).to(torch.uint8).reshape(-1, 1, 1, 1)
    assert to_uint8(from_uint8(every)).equal(every)
    x = torch.full((1, 1, 1, 1), value)
    best = (from_uint8(every) - x).abs().min()
    assert (from_uint8(to_uint8(x)) - x).abs().item() == pytest.approx(best.item(), abs=1e-6)


# Training

@given(st.integers(1, 50), st.floats(1e-5, 1))
def test_warming_up_climbs_in_a_straight_line_and_stays(steps, peak):
    lr = [warmup(peak, steps)(i) for i in range(steps + 3)]
    assert lr == pytest.approx([peak*min(i + 1, steps)/steps for i in range(steps + 3)])

@given(noisy())
def test_the_velocity_weight_turns_an_error_of_eps_into_one_of_v(batch):
    "v - v' = (eps - eps')/alpha at a given z."
    z, logsnr, _ = batch
    eps, guess = z.flip(0), z.flip(1)
    v, v_guess = (velocity(predict_x(z, logsnr, e), logsnr, e) for e in (eps, guess))
    nearly(velocity_weight(logsnr)[:, None]*(eps - guess)**2, (v - v_guess)**2)

@given(levels, st.floats(-3, 3))
def test_the_sigmoid_weight_is_a_half_at_its_bias(level, bias):
    close(sigmoid_weight(torch.tensor([bias, level], dtype=torch.float64), bias),
          torch.tensor([.5, 1/(1 + math.exp(level - bias))], dtype=torch.float64))

@given(st.floats(0, 1), st.booleans(), st.integers(1, 6), st.integers(0, 30))
def test_the_average_of_weights_is_its_recursion(decay, warm, updates, age):
    net = torch.nn.Linear(1, 1).double()
    ema, wanted = EMA(net, decay, warm, age), net.weight.item()
    for i in range(1, updates + 1):
        with torch.no_grad(): net.weight += 1
        ema.update()
        keep = min(decay, (1 + age + i)/(10 + age + i)) if warm else decay
        wanted = keep*wanted + (1 - keep)*net.weight.item()
        assert ema.net.weight.item() == pytest.approx(wanted) and ema.step == age + i

words = st.lists(st.integers(0, 2**64 - 1), max_size=3)

@given(st.lists(words, min_size=2, max_size=8, unique_by=tuple))
def test_different_numbers_make_different_seeds(lists):
    made = [derive_seed(*numbers) for numbers in lists]
    assert len(set(made)) == len(lists) and made == [derive_seed(*numbers) for numbers in lists]
    assert all(0 <= seed < 2**64 for seed in made)

@given(seeds, st.floats(0, 1))
def test_labels_are_dropped_with_the_probability_asked_for(seed, p):
    torch.manual_seed(seed)
    label = torch.arange(4000) % 7
    dropped = drop_label(label, p)
    gone = dropped == -1
    noise = .001 + 5*math.sqrt(p*(1 - p)/4000)
    assert dropped[~gone].equal(label[~gone]) and abs(gone.double().mean() - p) <= noise
