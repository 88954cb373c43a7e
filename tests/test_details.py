"""What the laws do not reach: defaults, refusals, edges and values that were worked out by hand.

Most of these were written for a planted fault that nothing else had noticed (make mutants)."""
import math
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from cfg_lessons import beyond, images, metrics, mixtures, networks, tilting, training
from cfg_lessons.classifier_free import batched_cfg, classifier_free, extrapolate, unconditional
from cfg_lessons.classifier_guidance import (MLPClassifier, check_classifier, check_weight,
                                             class_gradient, classification_loss,
                                             classifier_guided)
from cfg_lessons.diffusion import (alpha_sigma, check_label, cosine, diffuse, flow, linear_beta,
                                   log_linear, predict_eps, predict_x)
from cfg_lessons.recipes import open_run
from cfg_lessons.sampling import (ancestral, ancestral_std, check_levels, clipped, ddim, dpmpp_2m,
                                  final, heun, per_example_noise, sample)

close = partial(torch.testing.assert_close, rtol=1e-6, atol=1e-6)
Z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
LOGSNR, LABEL = torch.zeros(4), torch.arange(4)


def denoiser(z, logsnr, label):
    "Depends on all that it is told."
    return z.tanh() + label.to(z)[:, None]*z.cos() + logsnr[:, None]

def refused(words, f, *args, **more):
    with pytest.raises(ValueError, match=words): f(*args, **more)


# Chapter 1

def test_schedules_have_the_ends_that_their_papers_give_them():
    ends = torch.tensor([0., 1.], dtype=torch.float64)
    ddpm = -math.log(math.expm1(.1 + 19.9/2))
    close(cosine(ends), torch.tensor([20., -20.]).double())
    close(linear_beta(ends), torch.tensor([20., ddpm]).double())
    close(log_linear(ends), -2*torch.tensor([.002, 80.]).double().log())
    close(flow(ends), torch.tensor([20., -20.]).double())

def test_strengths_come_in_the_precision_of_the_examples():
    assert diffuse(torch.zeros(3, 2),
                   torch.zeros(3).double(), torch.zeros(3, 2)).dtype == torch.float32

def test_schedules_of_time_are_cut_where_they_are_told():
    close(flow(torch.tensor([0., 1.]), 3.), torch.tensor([3., -3.]))
    close(linear_beta(torch.tensor([0.]), logsnr_max=7.), torch.tensor([7.]))

@pytest.mark.parametrize('like', [torch.zeros(2, 1).half(), torch.zeros(2, 1).long()], ids=str)
def test_noise_levels_are_refused_in_numbers_that_cannot_hold_them(like):
    refused('turn them into float32', alpha_sigma, torch.zeros(2), like)

def test_one_level_an_example_and_noise_of_the_shape_of_x_are_wanted():
    refused('give one log-SNR per example', alpha_sigma, torch.zeros(()), Z)
    refused('must be alike', diffuse, Z, LOGSNR, Z[:, :1])

@pytest.mark.parametrize('label, classes, null, words', [
    ([0, 3], 3, True, 'outside 0 to 2 and is not NULL.*found 0 to 3'),
    ([-2, 0], 3, True, 'outside 0 to 2 and is not'), ([-1, 0], 3, False, 'no row for NULL'),
    ([0, 3], 3, False, 'outside 0 to 2, and'), ([0, -1], 0, True, 'knows no classes'),
    ([0], 3, True, 'one whole number'), ([0., 1.], 3, True, 'one whole number'),
    ([True, False], 3, True, 'one whole number')])
def test_labels_that_do_not_fit_are_refused(label, classes, null, words):
    refused(words, check_label, torch.tensor(label), torch.zeros(2, 1), classes, null)

@pytest.mark.parametrize('label, classes, null', [
    ([0, 2], 3, False), ([-1, 2], 3, True), ([-1, -1], 0, True)])
def test_labels_that_fit_are_taken_in_both_whole_types(label, classes, null):
    for dtype in (torch.int64, torch.int32):
        check_label(torch.tensor(label, dtype=dtype), torch.zeros(2, 1), classes, null)


# Chapter 2

def test_three_gaussians_stand_at_the_corners_of_a_triangle_that_points_up():
    m = mixtures.three_gaussians()
    close(m.mean[0], torch.tensor([0., 1.2]).double(), atol=1e-6)
    close(torch.cdist(m.mean, m.mean)[0, 1:], torch.tensor([1.2*3**.5]*2).double())
    close(m.mean.sum(0), torch.zeros(2).double())
    close(m.spread, torch.full((3, 2), .25).double())
    assert m.label.tolist() == [0, 1, 2] and m.num_classes == 3
    assert m.mean[1, 0] < -1 and m.mean[2, 0] > 1  # against the clock, as in the figures

def test_rings_are_made_of_pieces_that_lie_on_them():
    m = mixtures.rings()
    assert m.label.bincount().tolist() == [24]*3 and m.num_classes == 3
    radius = torch.tensor([.5, 1.1, 1.7]).double().repeat_interleave(24)
    close(m.mean.norm(dim=1), radius*math.cos(math.pi/24), rtol=1e-4)
    close(m.weight, radius/radius.sum(), rtol=1e-5)
    half = radius*math.sin(math.pi/24)  # half the length of a piece
    close(m.spread.amax(1), (.4*half**2).clamp(min=.06**2), rtol=1e-4)
    close(m.spread.amin(1), (.4*half**2).clamp(max=.06**2), rtol=1e-4)

def test_pieces_of_a_ring_point_along_it():
    m = mixtures.rings((1.,), .01)
    along = m.axes[torch.arange(24), :, m.spread.argmax(1)]
    assert ((along*m.mean).sum(1).abs() < 1e-5).all()

def test_a_tree_forks_as_often_as_it_is_told():
    m = mixtures.tree(depth=2)
    for made, count in ((m, 7), (mixtures.tree(), 63)):
        assert made.label.bincount().tolist() == [count]*2
    share = torch.tensor([1, .5, .5, .5, .5, .5, .5]).double()  # a leaf bears twice its half
    close(m.weight[:7], share/share.sum()/2)
    foot, aim = torch.tensor([0, -.9]).double(), torch.full((2,), .5**.5).double()
    close(m.mean[0], foot + .425*aim, rtol=1e-5)
    close(m.mean[7], m.mean[0]*torch.tensor([-1., 1.]).double(), rtol=1e-5)

def test_a_tree_has_its_proportions_unless_told_otherwise():
    usual, told = mixtures.tree(), mixtures.tree(5, .5, .72)
    assert all(a.equal(b) for a, b in zip(usual, told))

def test_a_branch_is_shorter_thinner_and_turned():
    m = mixtures.tree(depth=1, fork=.5, shrink=.72)
    length = (m.spread.amax(1)/.4).sqrt()*2
    close(length, torch.tensor([.85, .612, .612]*2).double(), rtol=1e-5)
    close(m.spread.amin(1).sqrt(), torch.tensor([.05, .036, .036]*2).double(), rtol=1e-5)
    tip = torch.tensor([0, -.9]).double() + .85*torch.tensor([.5**.5]*2).double()
    for i, turn in ((1, -.5), (2, .5)):
        angle = torch.tensor(math.pi/4 + turn).double()
        close(m.mean[i], tip + .306*torch.stack([angle.cos(), angle.sin()]), rtol=1e-5)

EYE = torch.eye(2).expand(2, 2, 2)

SQUARE, SKEW = torch.zeros(2, 2), EYE + torch.tensor([[0, 1.], [0, 0]])

@pytest.mark.parametrize('mean, cov, label, weight, words', [
    (torch.zeros(2), EYE, [0, 1], None, 'give centres'),
    (torch.zeros(0, 2), EYE, [0, 1], None, 'give centres'),
    (SQUARE, EYE, [0., 1.], None, 'give centres'),
    (torch.zeros(3, 2), EYE, [0, 1, 1], None, '3 centres in 2 dim'),
    (SQUARE, EYE, [0], None, '2 centres'), (SQUARE, EYE, [0, 1], [1.], '2 centres'),
    (SQUARE, EYE, [0, 2], None, 'every class'), (SQUARE, EYE, [1, 2], None, 'every class'),
    (SQUARE, -EYE, [0, 1], None, 'no negative'), (SQUARE, EYE, [0, 1], [1., 0.], 'positive'),
    (SQUARE, SKEW, [0, 1], None, 'symmetric'), (SQUARE*math.nan, EYE, [0, 1], None, 'finite'),
    (SQUARE, EYE, [0, 1], [1., math.inf], 'finite'),
    (SQUARE, torch.eye(2).expand(3, 2, 2), [0, 1], None, r'need cov \(2, 2, 2\)')])
def test_mixtures_that_are_none_are_refused(mean, cov, label, weight, words):
    refused(words, mixtures.gaussian_mixture, mean, cov, torch.tensor(label), weight)

def test_what_is_hardly_negative_is_seen_against_the_spread():
    tiny = 1e-3*torch.tensor([[1., 0.], [0., -.01]]).expand(2, 2, 2)
    refused('no negative', mixtures.gaussian_mixture, SQUARE, tiny, torch.tensor([0, 1]))

def test_examples_without_a_seed_are_those_of_seed_0():
    m = mixtures.tree()
    close(mixtures.sample_mixture(m, 9)[0], mixtures.sample_mixture(m, 9, seed=0)[0])

def test_a_mixture_knows_its_own_classes_and_its_own_plane():
    z, l = torch.zeros(2, 2), torch.zeros(2)
    refused('outside 0 to 1', mixtures.log_density, mixtures.tree(), z, l, torch.tensor([0, 2]))
    refused(r'lives in \(B, 2\)', mixtures.exact_denoiser(mixtures.tree()), z[:, :1], l, l.long())

def test_a_seed_gives_the_same_samples():
    one, two = (mixtures.sample_mixture(mixtures.tree(), 5, seed=3)[0] for _ in range(2))
    assert one.dtype == torch.float32 and one.equal(two)

def test_a_flat_cloud_in_space_has_no_negative_spread():
    flat = mixtures.gaussian_mixture(torch.zeros(1, 3), 100*torch.ones(1, 3, 3), torch.tensor([0]))
    assert flat.spread.min() >= 0

def test_a_direction_without_spread_is_allowed():
    flat = torch.diag(torch.tensor([1., 0.])).expand(1, 2, 2)
    assert mixtures.gaussian_mixture(torch.zeros(1, 2), flat, torch.tensor([0])).spread.min() == 0
    almost = torch.diag(torch.tensor([1., -1e-7])).expand(1, 2, 2)
    assert mixtures.gaussian_mixture(torch.zeros(1, 2), almost, torch.tensor([0])).spread.min() == 0

def test_points_of_another_dimension_are_refused():
    refused('lives in .B, 2.', mixtures.components, mixtures.three_gaussians(), Z.double(), LOGSNR)


# Chapter 3

FALSE_LEVELS = [[1.], [0., 0.], [1., 0.], [-math.inf, 0.], [[0., 1.]], [0., math.nan]]

@pytest.mark.parametrize('levels', FALSE_LEVELS, ids=str)
def test_levels_that_do_not_rise_are_refused(levels):
    refused('rises from noise to data', check_levels, torch.tensor(levels))

def test_levels_are_refused_with_the_first_three_of_them():
    refused(r'\(4,\) torch.float32: \[3.0, 2.0, 1.0\] ...', check_levels, torch.arange(3., -1, -1))

def test_levels_may_end_in_clean_data_except_where_their_distance_is_needed():
    levels = torch.tensor([-5., 0., math.inf])
    assert final(sample(lambda z, *_: 0*z, Z, LABEL, levels)).isfinite().all()
    refused('finite', lambda: final(dpmpp_2m(lambda z, *_: 0*z, Z, LABEL, levels)))

def test_sampling_takes_ddim_steps_unless_told_otherwise():
    levels = torch.tensor([-1., 1.])
    got = final(sample(denoiser, Z, LABEL, levels))
    assert got.equal(ddim(denoiser, Z, LOGSNR - 1, LOGSNR + 1, LABEL))

def test_an_ancestral_step_has_the_smaller_variance_unless_told_otherwise():
    noise = lambda z: torch.ones_like(z)
    args = denoiser, Z, LOGSNR - 1, LOGSNR + 1, LABEL, noise
    smaller, larger = (ancestral(*args, mix=mix) for mix in (0., 1.))
    assert ancestral(*args).equal(smaller) and not larger.equal(smaller)
    spread = ancestral_std(*args[1:4])
    assert spread.equal(ancestral_std(*args[1:4], mix=0.))

def test_sampling_keeps_no_graph():
    z = Z.clone().requires_grad_()
    for run in (sample, dpmpp_2m):
        assert not final(run(denoiser, z, LABEL, torch.tensor([-1., 1.]))).requires_grad

def test_a_multistep_step_follows_the_line_through_two_predictions():
    "By hand: D = x1 + h2/(2 h1) (x1 - x0), renoised with the noise that D implies."
    levels, answers = torch.tensor([-2., -1., 1.]).double(), iter([.3, .7])
    z = torch.full((1, 1), .5).double()
    s = lambda l: (1/(1 + math.exp(-l)))**.5, lambda l: (1/(1 + math.exp(l)))**.5
    x_of = lambda z, logsnr, label: (z - s[0](logsnr.item())*next(answers))/s[1](logsnr.item())
    first, second = (v.item() for v in dpmpp_2m(x_of, z, torch.tensor([0]), levels))
    move = lambda z, a, b, x: s[0](b)*x + s[1](b)*(z - s[0](a)*x)/s[1](a)
    assert first == pytest.approx(move(.5, -2, -1, .3))
    assert second == pytest.approx(move(first, -1, 1, .7 + 2/(2*1)*(.7 - .3)))

@pytest.mark.parametrize('step', [ddim, partial(ancestral, mix=.3)], ids=['ddim', 'ancestral'])
def test_an_infinite_last_level_ends_at_the_prediction_as_in_the_papers_algorithm_2(step):
    levels = torch.tensor([-1., 1., 5., math.inf])
    before, last = list(sample(denoiser, Z, LABEL, levels, step))[-2:]
    here = levels[-2:-1].expand(len(Z))
    close(last, predict_x(before, here, denoiser(before, here, LABEL)))

def test_heun_averages_predictions_which_stay_bounded_at_the_noisiest_level():
    "The mean of two noises would be multiplied by 22026 there."
    few, z = (lambda z, *_: .99*z), Z.double()
    here, there = LOGSNR.double() - 20, LOGSNR.double() - 7
    z_next = ddim(few, z, here, there, LABEL)
    mean = (predict_x(z, here, few(z)) + predict_x(z_next, there, few(z_next)))/2
    (alpha, sigma), (alpha_next, sigma_next) = alpha_sigma(here, z), alpha_sigma(there, z)
    close(heun(few, z, here, there, LABEL), alpha_next*mean + sigma_next*(z - alpha*mean)/sigma)

def test_the_stochastic_sampler_reaches_shares_means_and_covariances_of_the_classes():
    torch.manual_seed(0)
    mixture = mixtures.three_gaussians()
    made = final(sample(mixtures.exact_denoiser(mixture), torch.randn(20_000, 2),
                        torch.full((20_000,), -1), cosine(torch.linspace(1, 0, 129)),
                        partial(ancestral, mix=.3)))
    true = mixtures.sample_mixture(mixture, 200_000, seed=1)[0]
    near, true_near = (torch.cdist(x, mixture.mean.float()).argmin(1) for x in (made, true))
    for k in range(3):
        mine, real = made[near == k], true[true_near == k]
        assert abs(len(mine)/20_000 - 1/3) < .02
        torch.testing.assert_close(mine.mean(0), real.mean(0), atol=.03, rtol=0)
        torch.testing.assert_close(mine.T.cov(), real.T.cov(), atol=.03, rtol=0)

@pytest.mark.parametrize('run', [sample, partial(sample, step=heun), dpmpp_2m],
                         ids=['ddim', 'heun', '2m'])
def test_a_first_prediction_beyond_30_is_warned_of(run):
    "At the first step alone; exact denoisers, guided ones too, are nobody's mistake."
    z, label = torch.randn(50, 2), torch.zeros(50).long()
    levels = cosine(torch.linspace(1, 0, 9))
    def points_at(first, later):
        def f(z, logsnr, label):
            return predict_eps(z, logsnr, torch.full_like(z, first if logsnr[0] < -19 else later))
        return f
    with pytest.warns(UserWarning, match='far out .* clipped.* VHead'):
        final(run(points_at(30.1, 0.), z, label, levels))
    guided = classifier_free(mixtures.exact_denoiser(mixtures.three_gaussians()), 8.)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for fine in (points_at(29.9, 29.9), guided): final(run(fine, z, label, levels))

@pytest.mark.parametrize('run', [sample, dpmpp_2m], ids=['ddim', '2m'])
def test_later_predictions_are_not_warned_of(run):
    def grows(z, logsnr, label):
        return predict_eps(z, logsnr, torch.full_like(z, 0. if logsnr[0] < -19 else 99.))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        final(run(grows, Z, LABEL, cosine(torch.linspace(1, 0, 9))))

def test_a_step_of_ones_own_may_ask_a_network_for_more_than_eps():
    "Such as a variance beside it."
    both = lambda z, logsnr, label: torch.cat([denoiser(z, logsnr, label), z], 1)
    def first_half(denoiser, z, *more):
        return ddim(lambda *args: denoiser(*args).chunk(2, 1)[0], z, *more)
    levels = torch.tensor([-1., 1., 2.])
    got = final(sample(both, Z, LABEL, levels, first_half))
    assert got.equal(final(sample(denoiser, Z, LABEL, levels)))

@pytest.mark.parametrize('limit', [0., -1., math.nan])
def test_a_limit_that_is_not_positive_is_refused(limit):
    refused('must be positive', clipped, denoiser, limit)

def test_pictures_are_clipped_at_one():
    args = 3*Z, LOGSNR, LABEL
    assert clipped(denoiser)(*args).equal(clipped(denoiser, 1.)(*args))

def test_noise_for_another_batch_is_refused():
    refused('for 3 examples', per_example_noise(0, range(3)), Z)
    with pytest.raises(TypeError): per_example_noise(.5, [1])


# Chapter 4

def test_sinusoids_are_those_of_guided_diffusion():
    got = networks.sinusoids(torch.tensor([0., 3.]), 4)
    rate = [1., 10_000**-.5]
    close(got[1], torch.tensor([*(math.cos(3*r) for r in rate), *(math.sin(3*r) for r in rate)]))
    close(got[0], torch.tensor([1., 1, 0, 0]))
    refused('even width', networks.sinusoids, torch.zeros(2), 5)

def test_timestep_runs_from_0_at_data_to_1000_at_noise():
    got = networks.timestep(torch.tensor([60., 0., -60.]))
    close(got, torch.tensor([0., 500., 1000.]), atol=1e-3)
    assert networks.timestep(torch.zeros(1).double()).dtype == torch.float32

def test_a_level_shared_in_memory_is_embedded_once():
    rows, f = [], lambda l: rows.append(len(l)) or l[:, None].expand(-1, 2)
    for logsnr in (torch.zeros(1).expand(5), torch.zeros(5), torch.zeros(0)):
        assert networks.broadcast_once(f, logsnr).shape == (len(logsnr), 2)
    assert rows == [1, 5, 0]

def test_no_class_has_the_last_row_of_the_table():
    table = networks.LabelEmbedding(3, 2)
    got = table(torch.tensor([-1, 0, 2]), torch.zeros(3, 1))
    assert got.equal(table.table.weight[[3, 0, 2]]) and table.table.weight.shape == (4, 2)
    refused('outside 0 to 2', table, torch.tensor([3]), torch.zeros(1, 1))

def test_a_block_scales_and_shifts_its_middle():
    block, silu = networks.Block(2), nn.functional.silu
    h, emb = torch.randn(3, 2), torch.randn(3, 2)
    assert block(h, emb).equal(h)  # it begins as nothing
    nn.init.eye_(block.out_proj.weight)
    scale, shift = block.film(emb)[:, :2], block.film(emb)[:, 2:]
    close(block(h, emb), h + silu((1 + scale)*block.in_proj(silu(h)) + shift))

def test_a_network_adds_the_embeddings_of_noise_and_class():
    net, silu = networks.MLP(3, 4, width=8, depth=0), nn.functional.silu
    assert not net(Z, LOGSNR, LABEL).any()  # it begins by predicting nothing
    nn.init.ones_(net.out_proj.weight)
    close(net(Z, LOGSNR, LABEL), silu(net.in_proj(Z)).sum(1, keepdim=True).expand(4, 3))
    seen = []
    net.blocks.append(nn.Identity())
    net.blocks[0].forward = lambda h, emb: seen.append(emb) or h
    net(Z, LOGSNR, LABEL)
    noise = net.noise(networks.noise_embedding(LOGSNR, 8))
    close(seen[0], silu(noise + net.label(LABEL, Z)))

def test_networks_have_the_size_that_they_are_asked_for():
    for make, told, depth, out in ((networks.MLP, (LABEL,), 3, 3), (MLPClassifier, (), 2, 5)):
        net, usual = make(3, 5, width=8, depth=4), make(3, 5)
        assert len(net.blocks) == 4 and net.in_proj.weight.shape == (8, 3)
        assert net(Z, LOGSNR, *told).shape == (4, out)
        assert len(usual.blocks) == depth and usual.in_proj.out_features == 128

def test_a_network_for_vectors_refuses_what_is_none():
    net = networks.MLP(3, 4, width=8)
    refused('takes .B, 3.', net, Z[:, :2], LOGSNR, LABEL)
    refused('takes .B, 3.', net, Z[None], LOGSNR, LABEL)
    refused('for a batch of 4', net, Z, LOGSNR[:1], LABEL)

def test_bfloat16_answers_in_the_precision_of_z():
    layer = nn.Linear(3, 3)
    got = networks.in_bf16(lambda z, *_: layer(z))(Z, LOGSNR, LABEL)
    assert got.dtype == torch.float32 and 0 < (got - layer(Z)).abs().max() < .1


# Chapter 5

@pytest.mark.parametrize('p', [-.1, 1.1])
def test_a_probability_of_dropping_lies_between_0_and_1(p):
    refused('from 0 to 1', training.drop_label, LABEL, p)

def test_none_or_all_of_the_labels_may_be_dropped():
    assert training.drop_label(LABEL, 0).equal(LABEL)
    assert (training.drop_label(LABEL, 1) == -1).all()

def test_a_perfect_denoiser_has_no_loss_and_a_silent_one_has_one():
    x, schedule = torch.zeros(4000, 2), lambda t: torch.zeros_like(t)
    label = torch.zeros(4000).long()
    know = lambda z, logsnr, label: z/alpha_sigma(logsnr, z)[1]
    assert training.denoising_loss(know, schedule, x, label) < 1e-10
    silent = training.denoising_loss(lambda z, *_: 0*z, schedule, x, label)
    assert silent.item() == pytest.approx(1, abs=.1)
    half = training.denoising_loss(lambda z, *_: 0*z, schedule, x, label, weight=lambda l: .5 + l)
    assert half.item() == pytest.approx(.5, abs=.05)

def test_a_tenth_of_the_labels_is_dropped_unless_told_otherwise():
    seen = []
    def watch(z, logsnr, label):
        seen.append((label == -1).float().mean().item())
        return z
    training.denoising_loss(watch, cosine, torch.zeros(20_000, 1), torch.zeros(20_000).long())
    assert seen[0] == pytest.approx(.1, abs=.01)

def test_the_loss_tells_the_error_of_each_example():
    noted, x = [], torch.zeros(5, 2, 3)
    loss = training.denoising_loss(lambda z, *_: 0*z, cosine, x, torch.zeros(5).long(),
                                   note=lambda *both: noted.append(both))
    (logsnr, error), = noted
    assert logsnr.shape == error.shape == (5,) and error.mean().item() == pytest.approx(loss.item())

def test_answers_and_weights_of_a_wrong_shape_are_refused():
    x, label = torch.zeros(4, 2), torch.zeros(4).long()
    refused('or the weight', training.denoising_loss, lambda z, *_: z[:, :1], cosine, x, label)
    refused('or the weight', training.denoising_loss, lambda z, *_: z, cosine, x, label,
            weight=lambda l: torch.ones(1))

def trained(count=3, **more):
    "Gradient descent of 3 p + 1 with rate 0.1: number, loss and p of each step."
    p = nn.Parameter(torch.zeros(()))
    steps = training.train(lambda x: 3*p + x, torch.optim.SGD([p], .1), [(1.,)]*count, **more)
    return [(i, loss.item(), p.item()) for i, loss in steps]

def test_a_step_is_complete_when_it_is_yielded():
    "The gradient is cut to 1, so each step is 0.1 long; the loss is that from before the step."
    for i, (step, loss, p) in enumerate(trained()):
        assert step == i and loss == pytest.approx(1 - .3*i) and p == pytest.approx(-.1*(i + 1))

def test_without_a_limit_the_whole_gradient_is_followed():
    for clip, p in ((None, -.9), (2., -.6)): assert trained(clip=clip)[-1][2] == pytest.approx(p)

def test_the_learning_rate_is_that_of_its_step():
    assert trained(lr=lambda step: step, start=2)[-1][::2] == (4, pytest.approx(-9))

@pytest.mark.parametrize('clip', [0., -1., math.nan])
def test_a_limit_of_the_gradient_must_be_positive(clip):
    refused('must be positive', lambda: list(trained(clip=clip)))

def test_a_step_draws_from_its_seed_and_number():
    p = nn.Parameter(torch.zeros(()))
    def draws(**more):
        seen = []
        def loss():
            seen.append(torch.rand(()).item())
            return 1*p
        for _ in training.train(loss, torch.optim.SGD([p], 0.), [()]*3, **more): pass
        return seen
    assert draws(seed=5, start=1)[:2] == draws(seed=5)[1:] and draws(seed=5) != draws(seed=6)
    assert draws(seed=(5, 1)) != draws(seed=(1, 5)) and draws(seed=(5,)) == draws(seed=5)
    assert draws() != draws()

def test_an_average_begins_with_a_short_memory_and_ends_with_a_long_one():
    net = nn.Linear(1, 1)
    ema = training.EMA(net)
    assert ema.decay == .9999 and ema.warm and ema.step == 0
    assert not any(p.requires_grad for p in ema.net.parameters()) and not ema.net.training
    refused('in 16 bits', training.EMA, nn.Linear(1, 1).bfloat16())
    refused('in 16 bits', training.EMA, nn.Linear(1, 1).half())

def test_the_first_update_of_an_average_keeps_two_elevenths():
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    ema = training.EMA(net)
    nn.init.ones_(net.weight)
    ema.update()
    assert ema.net.weight.item() == pytest.approx(9/11)

def test_a_parameter_without_a_gradient_is_left_alone():
    "Also by weight decay, and also if it had a gradient the step before."
    p, q = (nn.Parameter(torch.ones(())) for _ in range(2))
    opt = torch.optim.SGD([p, q], .1, weight_decay=.5)
    losses, seen = iter([lambda: p + q, lambda: 1*p]), []
    for _ in training.train(lambda: next(losses)(), opt, [(), ()]): seen.append(q.item())
    assert seen[0] == seen[1] < 1

def test_a_derived_seed_is_numpys_of_count_and_halves():
    "Each number as its lower and upper 32 bits, so that a stored run can be repeated elsewhere."
    sequence = np.random.SeedSequence([2, 5, 0, 3, 2**8])
    assert training.derive_seed(5, 2**40 + 3) == int(sequence.generate_state(1, np.uint64)[0])

def test_buffers_are_copied_into_the_average():
    net = nn.BatchNorm1d(1)
    ema = training.EMA(net)
    net.running_mean += 3
    ema.update()
    assert ema.net.running_mean.item() == 3

def test_the_sigmoid_weight_has_its_bias_at_one():
    close(training.sigmoid_weight(torch.tensor([1.])), torch.tensor([.5]))

@pytest.mark.parametrize('name', ['net.safetensors', 'deep/er/net.pt'])
def test_weights_come_back_as_they_were(name, tmp_path):
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    notes = dict(seed='3') if name.endswith('safetensors') else {}
    training.save(tmp_path/name, net, **notes)
    assert training.load(tmp_path/name, other) == notes
    assert other.weight.equal(net.weight) and other.bias.equal(net.bias)
    assert [p.name for p in (tmp_path/name).parent.iterdir()] == [(tmp_path/name).name]
    assert (tmp_path/name).stat().st_mode & 0o777 in (0o644, 0o664, 0o600)

def test_files_of_another_network_are_refused_with_their_first_five_differences(tmp_path):
    path = tmp_path/'net.safetensors'
    training.save(path, nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))))
    refused(r'0.weight is unknown.*; and 5 more', training.load, path, nn.Linear(2, 2))
    refused(r'is \(.2, 2., .floating.\) instead of \(.3, 2., .floating.\)', training.load, path,
            nn.Sequential(nn.Linear(2, 3), *(nn.Linear(2, 2) for _ in range(3))))
    six, five = (nn.Sequential(*(nn.Linear(2, 2) for _ in range(n))) for n in (7, 6))
    refused('is missing.*; and 1 more', training.load, path, six)
    five.append(nn.Linear(2, 2, bias=False))
    with pytest.raises(ValueError, match='6.weight is missing.$'): training.load(path, five)

def test_five_differences_are_told():
    have = {str(i): ((1,), 'floating') for i in range(7)}
    said = training._state_dict_mismatch(have, {})
    assert said.count('is unknown') == 5 and said.endswith('; and 2 more')

def test_pytorchs_format_is_known_by_its_first_bytes(tmp_path):
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    torch.save(net.state_dict(), tmp_path/'net.bin')
    assert training.load(tmp_path/'net.bin', other) == {} and other.weight.equal(net.weight)

@pytest.mark.parametrize('name', ['a.pt', 'a.safetensors'])
def test_damaged_files_are_refused(name, tmp_path):
    (tmp_path/name).write_bytes(b'nothing')
    refused('is damaged', training.load, tmp_path/name, nn.Linear(1, 1))
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        training.load(tmp_path/'none.pt', nn.Linear(1, 1))

def test_files_with_more_or_less_than_arrays_are_refused_and_the_network_is_as_before(tmp_path):
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    state, before = net.state_dict(), other.weight.clone()
    training.save(tmp_path/'a.safetensors', net)
    whole = (tmp_path/'a.safetensors').read_bytes()
    (tmp_path/'half.safetensors').write_bytes(whole[:len(whole)//2])
    refused('is damaged', training.load, tmp_path/'half.safetensors', other)
    torch.save(state, tmp_path/'half.pt')
    (tmp_path/'half.pt').write_bytes((tmp_path/'half.pt').read_bytes()[:99])
    torch.save({'weights': state, 'code': print}, tmp_path/'code.pt')
    for name in ('half', 'code'):
        refused('more than arrays', training.load, tmp_path/f'{name}.pt', other)
    torch.save({'step': 5, 'weights': state}, tmp_path/'nested.pt')
    torch.save({k: v.to('meta') for k, v in state.items()}, tmp_path/'hollow.pt')
    for name in ('nested', 'hollow'):
        refused('is no state dict', training.load, tmp_path/f'{name}.pt', other)
    with pytest.raises(OSError, match='could not be written'):
        training.save(tmp_path/'a.safetensors'/'below.safetensors', net)
    assert other.weight.equal(before) and (tmp_path/'a.safetensors').read_bytes() == whole

def test_halves_and_compiled_networks_go_by_the_same_names(tmp_path):
    "A compiled network calls its weights _orig_mod.weight; files do not."
    net, other = nn.Linear(2, 3), nn.Linear(2, 3)
    training.save(tmp_path/'half.pt', nn.Linear(2, 3).half())
    training.load(tmp_path/'half.pt', other)
    assert other.weight.dtype == torch.float32 and other.weight.equal(other.weight.half().float())
    training.save(tmp_path/'a.safetensors', torch.compile(net))
    training.load(tmp_path/'a.safetensors', torch.compile(other))
    assert other.weight.equal(net.weight)

def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path/'a'
    path.write_text('before')
    with pytest.raises(RuntimeError), training.atomic_write(path) as f:
        f.write(b'half')
        raise RuntimeError
    assert path.read_text() == 'before' and [p.name for p in tmp_path.iterdir()] == ['a']

def test_what_cannot_be_saved_is_refused(tmp_path):
    refused('cannot hold notes', training.save, tmp_path/'a.pt', nn.Linear(1, 1), seed=1)
    with torch.device('meta'): hollow = nn.Linear(1, 1)
    refused('ordinary arrays only', training.save, tmp_path/'a.safetensors', hollow)
    training.save(tmp_path/'a.safetensors', nn.Linear(1, 1))
    refused('no memory yet', training.load, tmp_path/'a.safetensors', hollow)


# Chapters 6 and 7

@pytest.mark.parametrize('w', [math.nan, math.inf, '1', None, torch.ones(2)], ids=str)
def test_a_weight_that_is_no_finite_number_is_refused_everywhere(w):
    makers = [partial(classifier_free, denoiser), partial(batched_cfg, denoiser), check_weight,
              partial(extrapolate, denoiser, denoiser), partial(beyond.apg, denoiser),
              beyond.interval, partial(beyond.rescaled, denoiser),
              partial(beyond.zero_star, denoiser),
              partial(classifier_guided, denoiser, lambda z, logsnr: z)]
    for make in makers: refused('guidance weight w is', make, w)

def test_without_weight_the_denoiser_itself_is_returned():
    for rule in (classifier_free, batched_cfg, beyond.rescaled, beyond.apg):
        assert rule(denoiser, 0.) is denoiser
    for rule in (extrapolate, classifier_guided): assert rule(denoiser, None, 0) is denoiser

def test_with_a_weight_of_one_two_answers_are_asked_for():
    asked = []
    watch = lambda z, logsnr, label: asked.append(label.tolist()) or denoiser(z, logsnr, label)
    classifier_free(watch, 1.)(Z, LOGSNR, LABEL)
    assert asked == [[0, 1, 2, 3], [-1]*4]
    batched_cfg(watch, 1.)(Z, LOGSNR, LABEL)
    assert asked[2:] == [[0, 1, 2, 3, -1, -1, -1, -1]]

def test_labels_that_cannot_hold_null_are_refused():
    for dtype in (torch.bool, torch.uint8):
        refused('cannot hold NULL', unconditional(denoiser), Z, LOGSNR, LABEL.to(dtype))

def test_the_slope_of_a_linear_classifier_is_known():
    "grad log p(c | z) = W_c - sum of p_k W_k."
    w = torch.randn(3, 4)
    got = class_gradient(lambda z, logsnr: z @ w, Z, LOGSNR, LABEL)
    close(got, (w[:, LABEL] - w @ (Z @ w).softmax(1).T).T, atol=1e-5)

@pytest.mark.parametrize('answer, words', [
    (lambda z, l: z[:, 0], 'one logit per class'), (lambda z, l: z[:, :0], 'one logit per class'),
    (lambda z, l: z[:2], 'one logit per class'), (lambda z, l: None, 'one logit per class'),
    (lambda z, l: z[None], 'one logit per class'),
    (lambda z, l: (z @ z.T).detach(), 'carries no gradient'),
    (lambda z, l: z, 'outside 0 to 2')])
def test_answers_of_a_classifier_that_are_none_are_refused(answer, words):
    refused(words, class_gradient, answer, Z, LOGSNR, LABEL)

def test_classifier_guidance_is_the_same_in_inference_mode():
    guided = classifier_guided(denoiser, lambda z, l: torch.cat([z, z[:, :1]], 1)*l.cos()[:, None],
                               1.)
    with torch.inference_mode(): inside = guided(Z.clone(), LOGSNR.clone(), LABEL.clone())
    assert inside.equal(guided(Z, LOGSNR, LABEL)) and not inside.equal(denoiser(Z, LOGSNR, LABEL))

def test_no_class_has_no_gradient():
    refused('no class has no gradient', class_gradient, lambda z, l: z @ z.T, Z, LOGSNR, LABEL - 1)

def test_a_classifier_that_does_not_listen_to_the_noise_is_refused():
    deaf, alike = (lambda z, logsnr: z @ z.T), (lambda z, logsnr: torch.zeros(len(z), 4))
    refused('ignores its noise level', check_classifier, deaf, Z, LOGSNR)
    refused('cannot be asked', check_classifier, lambda z: z, Z, LOGSNR)
    check_classifier(alike, Z, LOGSNR)  # one that has learnt nothing yet
    for edge in (-4, 4): check_classifier(lambda z, l: z*(l >= edge)[:, None], Z, LOGSNR)

def test_a_classifier_is_listened_to_at_three_levels():
    levels = []
    def classifier(z, logsnr):
        levels.append(logsnr.tolist())
        return z*logsnr[:, None]
    check_classifier(classifier, Z, LOGSNR + 5)
    assert levels == [[-8]*4, [0]*4, [8]*4]
    refused('one logit per class', check_classifier, lambda z, logsnr: z[:2], Z, LOGSNR)

def test_what_noise_adds_to_all_logits_of_an_example_is_not_listening():
    only = lambda z, logsnr: z.round() + logsnr[:, None]*torch.arange(4.)[:, None]
    refused('ignores its noise level', check_classifier, only, Z, LOGSNR)

def test_a_classifier_may_take_gradients_itself():
    def energy(z, logsnr):
        z = z.clone().requires_grad_()
        return torch.autograd.grad((z**2*logsnr[:, None]).sum(), z, create_graph=True)[0]
    with torch.inference_mode(): check_classifier(energy, Z, LOGSNR)

def test_a_classifier_is_checked_once_on_the_first_batch_that_has_rows():
    calls = []
    def classifier(z, logsnr):
        calls.append(len(z))
        return torch.cat([z, z[:, :1]], 1)*logsnr.sigmoid()[:, None]
    guided = classifier_guided(denoiser, classifier, 1.)
    for n in (0, 4, 4): guided(Z[:n], LOGSNR[:n], LABEL[:n])
    assert calls == [0, 4, 4, 4, 4, 4]
    many = torch.randn(20, 3)
    calls.clear(), check_classifier(classifier, many, torch.zeros(20))
    assert calls == [8, 8, 8]

def test_the_classification_loss_is_the_cross_entropy_of_noisy_examples():
    label = torch.arange(6) % 3
    sure = lambda z, logsnr: 100*torch.eye(3)[label]
    blind = lambda z, logsnr: torch.zeros(6, 3)
    for classifier, loss in ((sure, 0), (blind, math.log(3))):
        got = classification_loss(classifier, cosine, torch.zeros(6, 2), label)
        assert got.item() == pytest.approx(loss)
    refused('outside 0 to 2', classification_loss, blind, cosine, torch.zeros(6, 2), label + 1)


# Chapter 8

def test_features_that_are_none_are_refused():
    for bad in (torch.zeros(3), torch.zeros(3, 2).long(), [1.], None):
        refused('give floating-point numbers', metrics.check_features, bad)
    refused('There are 3 examples', metrics.check_features, torch.zeros(3, 2), 4)
    sick = torch.tensor([[0.], [0.], [math.nan], [math.inf]])
    refused('example 2 are', metrics.check_features, sick)
    refused('example 12 are', metrics.check_features, sick, first=10)
    assert metrics.check_features(torch.zeros(3, 2), 3).dtype == torch.float64

def test_class_accuracy_counts_the_most_probable():
    p = torch.tensor([[.2, .8], [.9, .1], [.4, .6], [.3, .7]])
    assert metrics.class_accuracy(p, [1, 0, 0, 1]) == .75
    for label in ([1, 0, 0], [1., 0., 0., 1.], [2, 0, 0, 0], [-1, 0, 0, 0]):
        refused('one class per example', metrics.class_accuracy, p, torch.tensor(label))

def test_measures_refuse_too_few_examples():
    x = torch.randn(5, 2).double()
    for k in (0, 5): refused('have no neighbour', metrics.knn_radii, x, k)
    assert metrics.knn_radii(x, 4).shape == (5,)
    refused('needs 4 or more', metrics.precision_recall, x[:3], x)
    refused('needs 1 or more', metrics.coverage, x, x[:0], 1)
    refused('needs 2 or more', metrics.kernel_distance, x[:1], x)
    refused('One set has 2 features, the other 1', metrics.kernel_distance, x, x[:, :1])
    refused('give as many of each', metrics.sliced_wasserstein, x, x[:4])
    refused('give as many of each', metrics.sliced_wasserstein, x[:0], x[:0])
    refused('no finite samples', metrics.total_variation, x[:0], torch.ones(4)/4, 1.)

def test_neighbours_are_counted_to_the_third_for_recall_and_to_the_fifth_for_coverage():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 2, generator=g), torch.randn(50, 2, generator=g) + 1
    for measure, k in ((metrics.precision_recall, 3), (metrics.coverage, 5)):
        assert measure(x, y) == measure(x, y, k) != measure(x, y, k - 1)
        assert measure(x, y) != measure(x, y, k + 1)

def test_many_points_are_measured_in_parts():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2100, 2, generator=g).double(), torch.randn(2100, 2, generator=g).double()
    close(metrics.knn_radii(x, 2), torch.cdist(x, x).kthvalue(3, 1).values)
    k = lambda a, b: (a @ b.T/2 + 1)**3
    within = lambda a: (k(a, a).sum() - k(a, a).trace())/(2100*2099)
    wanted = within(x) + within(y) - 2*k(x, y).mean()
    assert metrics.kernel_distance(x, y) == pytest.approx(wanted.item())

def test_moments_refuse_what_has_no_covariance():
    few = metrics.Moments(2).add(torch.eye(2))
    refused('2 examples are too few', lambda: few.cov)
    assert metrics.Moments(2).add(torch.randn(3, 2)).cov.shape == (2, 2)
    refused('same features', lambda: metrics.Moments(2).add(torch.ones(9, 2)).cov)
    refused('earlier: 2', few.add, torch.zeros(1, 3))
    refused('example 3 are', few.add, torch.tensor([[0., 0], [0, math.nan]]))

def test_scores_refuse_what_is_no_probability_or_too_many():
    for splits in (0, 5): refused('cannot be cut', metrics.ScoreSums, 4, splits)
    assert len(metrics.ScoreSums(10).plogp) == 10
    p = torch.full((3, 4), .25)
    for bad in (2*p, p - torch.tensor([.5, -.5, 0, 0]), p + 1e-4):
        refused('no probabilities', metrics.ScoreSums(4, 1).add, bad)
    sums = metrics.ScoreSums(4, 1).add(p)
    refused('Only 3 of 4', sums.scores)
    refused('4 examples were announced', sums.add, p)
    refused('earlier: 4', sums.add, torch.full((1, 2), .5))
    sums.add(p[:1])
    close(sums.scores(), torch.ones(1).double())

def test_inception_scores_are_shuffled_as_torch_fidelity_shuffles():
    p = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).softmax(1)
    turned = p[np.random.RandomState(2020).permutation(20)]
    close(metrics.inception_score(p, 4), metrics.inception_score(turned, 4, seed=None))
    assert metrics.inception_score(p).shape == (10,)

def test_frechet_distance_refuses_what_does_not_fit():
    m, c = torch.zeros(2), torch.eye(2)
    refused('do not fit', metrics.frechet_distance, m, c, m, torch.eye(3))
    refused('not finite', metrics.frechet_distance, m, c, m + math.inf, c)
    refused('not symmetric', metrics.frechet_distance, m, -c, m, c)
    skew, flat = c + torch.tensor([[0, 1.], [0, 0]]), torch.diag(torch.tensor([1., 0]))
    refused('not symmetric', metrics.frechet_distance, m, skew, m, c)
    assert metrics.frechet_distance(m, c, m, c) == 0
    assert metrics.frechet_distance(m, flat, m, c) == pytest.approx(1)

def test_flat_sets_of_features_have_a_distance_too():
    "Covariances of rank one, whose other eigenvalues rounding makes a little negative."
    for seed in range(5):
        v = torch.randn(6, 1, generator=torch.Generator().manual_seed(seed)).double()
        mean, cov = torch.zeros(6).double(), v @ v.T
        got = metrics.frechet_distance(mean, cov, mean, 4*cov)
        assert got == pytest.approx((v**2).sum().item(), abs=1e-6)

def test_directions_of_the_sliced_distance_are_those_of_their_seed():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(30, 3, generator=g), torch.randn(30, 3, generator=g)
    one = metrics.sliced_wasserstein
    assert one(x, y) == one(x, y, 64, 0) != one(x, y, 64, 1) and one(x, y) != one(x, y, 63)

def test_cells_that_are_too_coarse_are_refused():
    refused('too coarse', metrics.total_variation, Z[:, :2], torch.full((4,), .3), 1.)
    assert metrics.total_variation(Z[:, :2]/9, torch.full((4,), .26), 1.) >= 0
    assert metrics.cell_masses(lambda z: 0*z[:, 0], 1.).shape == (36**2,)
    close(metrics.cell_masses(lambda z: 0*z[:, 0], 1., 2), torch.ones(4).double())

def test_features_of_digits_see_bytes_between_minus_one_and_one():
    net = metrics.DigitsFeatures()
    x = torch.randint(0, 256, (3, 1, 8, 8)).to(torch.uint8)
    features, logits = net(x)
    close(features, net.trunk(x.double().float()*2/255 - 1).mean((2, 3)), atol=1e-5)
    assert features.shape == (3, 64) and logits.shape == (3, 10)
    assert net.trunk(x.float()).shape == (3, 64, 4, 4)
    assert logits.equal(net.head(features))


# Chapter 9

def test_digits_are_parted_in_tens_and_none_is_lost():
    (train, a), (test, b), (every, _) = (images.digits(part) for part in ('train', 'test', 'all'))
    assert len(train) == len(a) == 1440 and len(test) == len(b) == 357 and len(every) == 1797
    assert (test[:10] == every[40:50]).all() and (train[40:50] == every[50:60]).all()
    assert images.digits()[0].shape == (1440, 1, 8, 8) and every.max() == 255 and every.min() == 0
    refused('choose train', images.digits, 'half')

def test_pictures_of_the_wrong_type_are_refused():
    refused('kept as bytes', images.from_uint8, Z)
    refused('already', images.to_uint8, LABEL)
    refused('NaN', images.to_uint8, Z*math.nan)
    assert images.to_uint8(torch.tensor([-9., -1, 0, 1, 9])).tolist() == [0, 0, 128, 255, 255]

def test_sets_of_pictures_come_back_as_they_were(tmp_path):
    x, y = np.arange(48, dtype=np.uint8).reshape(3, 1, 4, 4), np.array([2, 0, 1])
    images.save_images(tmp_path/'a'/'b', x, y, source='here')
    got, label, notes = images.open_images(tmp_path/'a'/'b')
    assert (got == x).all() and (label == y).all()
    assert notes == dict(source='here', images=[3, 1, 4, 4])
    assert label.dtype == np.int64 and isinstance(got, np.memmap)
    images.save_images(tmp_path/'empty', x[:0], y[:0])
    images.save_images(tmp_path/'empty', x, y.astype(np.uint8))

TWO = np.zeros((2, 1, 4, 4), np.uint8)

@pytest.mark.parametrize('x, y', [(TWO.astype(float), [0, 1]), (TWO[:, 0], [0, 1]), (TWO, [0]),
                                  (TWO, [0, -1]), (TWO, [0., 1.])])
def test_what_is_no_set_of_pictures_is_not_written(x, y, tmp_path):
    refused('A set is bytes', images.save_images, tmp_path, x, y)

@pytest.mark.parametrize('name, content, words',
                         [('notes.json', b'{', 'is damaged'), ('images.npy', b'', 'is damaged'),
                          ('labels.npy', b'no', 'is damaged'),
                          ('notes.json', b'[]', 'does not fit its notes'),
                          ('notes.json', b'{"images": [9]}', 'does not fit its notes'),
                          ('labels.npy', b'', 'is damaged'),
                          ('labels.npy', b'\x93NUMPY\1\0v\0{' + bytes(117), 'is damaged'),
                          ('labels.npy', b'PK\x05\x06' + bytes(18), 'is damaged'),
                          ('labels.npy', None, 'has no labels'),
                          ('notes.json', None, 'has no notes'),
                          ('images.npy', None, 'has no images')])
def test_damaged_sets_of_pictures_are_refused(name, content, words, tmp_path):
    images.save_images(tmp_path, TWO, [0, 1])
    (tmp_path/name).unlink()
    if content is not None: (tmp_path/name).write_bytes(content)
    refused(words, images.open_images, tmp_path)

def test_sets_with_too_few_labels_or_none_at_all_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image set'): images.open_images(tmp_path/'a')
    images.save_images(tmp_path, TWO, [0, 1])
    np.save(tmp_path/'labels.npy', np.zeros(1, np.int64))
    refused('does not fit its notes', images.open_images, tmp_path)

def test_tensors_and_arrays_make_the_same_batches():
    one, two = (next(images.batches(a, a, 4, seed=1)) for a in (np.arange(9), torch.arange(9)))
    assert all(torch.is_tensor(a) and a.equal(b) for a, b in zip(one, two))

def test_batches_refuse_what_they_cannot_cut():
    make = lambda n, m, *args, **more: next(images.batches(np.zeros(n), np.zeros(m), *args, **more))
    for n, m in ((4, 3), (0, 0)): refused('give as many', make, n, m, 2)
    for size, start in ((0, 0), (1, -1)): refused('at least 1 and 0', make, 4, 4, size, start=start)
    for rank, ranks in ((2, 2), (-1, 2), (0, 3)):
        refused('cannot be cut', make, 4, 4, 2, rank=rank, ranks=ranks)
    assert len(make(4, 4, 1)[0]) == 1

def test_batches_begin_at_the_first_with_seed_0():
    x, _ = next(images.batches(np.arange(9), np.arange(9), 4))
    assert x.tolist() == images.shuffled(9, 0, 0)[:4].tolist()

def test_half_of_the_pictures_are_mirrored():
    x = torch.arange(2).expand(4000, 1, 1, 2)
    flipped = next(images.random_flip([(x, 0)]))[0][:, 0, 0, 0]
    assert flipped.float().mean().item() == pytest.approx(.5, abs=.05)
    share = lambda **more: next(images.random_flip([(x, 0)], ranks=2, **more))[0]
    assert share().equal(share(rank=0)) and not share().equal(share(rank=1))

def test_prefetching_reads_two_ahead():
    read = []
    stream = images.prefetch(read.append(i) or i for i in range(9))
    next(stream)
    for _ in range(500):  # it reads in its own time
        if len(read) < 3: time.sleep(.01)
    assert len(read) == 3 and list(stream) == list(range(1, 9))

def test_a_grid_holds_its_pictures_row_by_row():
    x = np.arange(3*4, dtype=np.uint8).reshape(3, 1, 2, 2)
    grid = np.asarray(images.make_grid(x, 2))
    assert grid.tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 255, 255], [10, 11, 255, 255]]
    padded = np.asarray(images.make_grid(np.repeat(x, 3, 1), 3, pad=1))
    assert padded.shape == (4, 12, 3) and (padded[0] == 255).all() and (padded[:, 0] == 255).all()
    assert padded[1:3, 1:3, 2].tolist() == [[0, 1], [2, 3]]


# Chapters 12 and 13

def test_weights_of_an_interval_include_its_lower_end_alone():
    weight = beyond.interval(2., -1., 1.)(torch.tensor([-1.1, -1., 0., 1.]))
    assert weight.tolist() == [0, 2, 2, 0]
    assert beyond.interval(2.)(torch.tensor([-99., 99.])).tolist() == [2, 2]

def test_where_all_weights_are_0_one_evaluation_is_enough():
    asked = []
    watch = lambda z, logsnr, label: asked.append(label) or denoiser(z, logsnr, label)
    beyond.scheduled(watch, beyond.interval(1., 5.))(Z, LOGSNR, LABEL)
    assert len(asked) == 1
    refused('give a function', beyond.scheduled, denoiser, 1.)

@pytest.mark.parametrize('make, words', [
    (lambda v: beyond.rescaled(denoiser, 1., v), 'phi is'),
    (lambda v: beyond.thresholded(denoiser, v), 'percentile is'),
    (lambda v: beyond.zero_star(denoiser, 1., v), 'zero_init_share is'),
    (lambda v: beyond.cfg_plus_plus(denoiser, Z, LOGSNR, LOGSNR, LABEL, kappa=v), 'kappa is')])
def test_shares_lie_between_0_and_1(make, words):
    for v in (-.1, 1.1): refused(words, make, v)
    make(0.), make(1.)

def test_methods_have_the_settings_of_their_papers():
    args = 3*Z, LOGSNR + torch.linspace(-9, 2, 4), LABEL
    same = lambda a, b: torch.equal(a(*args), b(*args))
    assert same(beyond.rescaled(denoiser, 1.), beyond.rescaled(denoiser, 1., .7))
    assert same(beyond.thresholded(denoiser), beyond.thresholded(denoiser, .995))
    assert same(beyond.apg(denoiser, 1.), beyond.apg(denoiser, 1., 0., 0., math.inf))
    assert same(beyond.zero_star(denoiser, 1.), beyond.zero_star(denoiser, 1., .04, True))
    step = partial(beyond.cfg_plus_plus, denoiser, Z, LOGSNR, LOGSNR + 1, LABEL)
    assert step().equal(step(kappa=.6))

def test_tangential_damping_keeps_one_direction_of_the_unconditional_prediction():
    "Predictions (2, 0) and (0, 1) have (2, 0) as their main direction: nothing is left of (0, 1)."
    def told(z, logsnr, label):
        return torch.where(label[:, None] < 0, torch.tensor([0., 1.]), torch.tensor([2., 0.]))
    close(beyond.tangential(told, 3.)(Z[:, :2], LOGSNR, LABEL), torch.tensor([[8., 0.]]*4))

def test_one_number_has_no_spread_to_rescale():
    refused('no spread', beyond.rescaled(denoiser, 1.), Z[:, :1], LOGSNR, LABEL)
    assert beyond.rescaled(denoiser, 1.)(Z[:, :2], LOGSNR, LABEL).shape == (4, 2)

def test_a_remembered_push_is_for_one_run():
    f = beyond.apg(denoiser, 1., momentum=-.5)
    f(Z, LOGSNR, LABEL)
    refused('make a new one for each run', f, Z[:2], LOGSNR[:2], LABEL[:2])
    for radius in (0., -1., math.nan): refused('radius is', beyond.apg, denoiser, 1., radius=radius)
    free = beyond.apg(denoiser, 1.)
    free(Z, LOGSNR, LABEL), free(Z[:2], LOGSNR[:2], LABEL[:2])

def test_a_push_of_nothing_stays_nothing():
    alike = lambda z, logsnr, label: z
    for make in (beyond.apg, beyond.zero_star):
        got = make(alike, 1.)(0*Z, LOGSNR, LABEL)
        assert got.equal(0*Z)

def test_relabelled_asks_for_the_other_label():
    other = beyond.relabelled(denoiser, lambda c: c.flip(0))
    assert other(Z, LOGSNR, LABEL).equal(denoiser(Z, LOGSNR, LABEL.flip(0)))
    assert set(beyond.any_class(3)(torch.zeros(99).long()).tolist()) == {0, 1, 2}

def test_blinded_attention_passes_its_values_on():
    from cfg_lessons.unet import DIGITS, Attention, UNet
    net = UNet(DIGITS)
    twin = beyond.perturbed_attention(net)
    q, v = torch.randn(2, 1, 2, 3, 4)
    blind = [m for m in twin.modules() if isinstance(m, Attention)]
    assert blind and all(m.attend(q, q, v) is v for m in blind)
    assert not any(m.attend(q, q, v) is v for m in net.modules() if isinstance(m, Attention))
    refused('blinded already', beyond.perturbed_attention, twin)
    assert twin.state_dict().keys() == net.state_dict().keys()
    refused('no Attention', beyond.perturbed_attention, nn.Linear(1, 1))

def test_a_student_sees_its_weight_as_one_more_channel():
    class Flip(nn.Module):
        def forward(self, z, logsnr, label): return z.flip(1)
    student = beyond.Distilled(Flip(), 4.)
    got = student(Z, LOGSNR, LABEL, torch.tensor([0., 1, 2, 4]))
    close(got, torch.cat([torch.tensor([[0.], [.25], [.5], [1.]]), Z.flip(1)[:, :2]], 1))
    close(student.at(2.)(Z, LOGSNR, LABEL)[:, 0], torch.full((4,), .5))
    for w in (-1, 5.): refused('it was taught 0 to 4', student.at, w)
    student.at(0.), student.at(4.)

def test_a_widened_network_begins_as_its_teacher():
    teacher, student = nn.Linear(2, 3), nn.Linear(4, 3)
    assert beyond.widened(student, teacher) is student
    assert student.weight[:, :2].equal(teacher.weight) and not student.weight[:, 2:].any()
    assert beyond.widened(nn.Linear(2, 3), teacher).weight.equal(teacher.weight)
    refused('smaller than its teacher in weight', beyond.widened, nn.Linear(1, 3), teacher)

def test_the_loss_of_a_student_that_knows_is_nothing():
    teacher = lambda z, logsnr, label: z.tanh() + label.to(z)[:, None]*z.cos()
    class Knows(nn.Module):
        w_max = 3.
        def forward(self, z, logsnr, label, w):
            seen.append(w)
            return beyond.scheduled(teacher, lambda _: w)(z, logsnr, label)
    seen, x = [], torch.randn(500, 3)
    label = torch.arange(500) % 3
    assert beyond.distillation_loss(Knows(), teacher, cosine, x, label).item() == 0
    assert 2.9 < seen[0].max() < 3 and seen[0].min() < .1

def test_points_and_functions_that_have_no_jacobian_are_refused():
    refused('give floats', tilting.value_and_jacobian, torch.sin, Z[0])
    refused('give floats', tilting.value_and_jacobian, torch.sin, Z.long())
    refused('without chance', tilting.value_and_jacobian, lambda z: z*torch.rand(()), Z)
    levels = torch.tensor([-1., 1, math.inf])
    refused('finite log-SNRs', tilting.flow_log_density, denoiser, Z, LABEL, levels)

def test_rows_are_parted_by_their_class():
    assert [r.tolist() for r in tilting.rows_by_class(torch.tensor([5, 2, 5]))] == [[1], [0, 2]]

def test_weights_that_are_no_numbers_are_refused():
    for bad in ([math.nan, 0.], [-math.inf, -math.inf]):
        refused('not numbers', tilting.systematic_resample, torch.tensor(bad))
    assert tilting.systematic_resample(torch.tensor([-math.inf, 0.])).tolist() == [1, 1]
    for size in (0., -1.): refused('above 0', tilting.langevin, denoiser, Z, LOGSNR, LABEL, size)

def test_the_flow_s_density_is_one_of_points():
    refused('give floats .B, D.', tilting.flow_log_density, denoiser, Z[None], LABEL,
            torch.tensor([-1., 1.]))

def test_particles_need_rising_levels_and_a_finite_weight():
    def run(levels, w):
        return next(tilting.sample_tilted(denoiser, Z, LABEL, torch.tensor(levels), w))
    refused('rises', run, [1., 0.], 1.)
    refused('guidance weight w is', run, [0., 1.], math.nan)

def crowd(label, ess_threshold):
    "One step of particles that stay; those at 0 and 2 weigh far more than those at 1 and 3."
    z = torch.arange(4.)[:, None].repeat(1, 3)
    strong = lambda z, logsnr, label: 9.*(label >= 0)[:, None]*(z % 2 == 0)
    stay = lambda d, z, a, b, label, noise: z
    return next(tilting.sample_tilted(strong, z, label, torch.tensor([0., 1.]), 1., stay,
                                      ess_threshold=ess_threshold))

def test_a_class_whose_weights_are_uneven_is_drawn_anew():
    label = torch.tensor([0, 0, 1, 1])
    z, weight = crowd(label, .9)
    assert z[:, 0].tolist() == [0, 0, 2, 2] and not weight.any()

def test_two_equal_particles_count_as_two_of_four():
    assert not crowd(LABEL*0, .75)[1].any() and crowd(LABEL*0, .49)[1].any()

def test_a_class_whose_weights_are_even_enough_is_kept():
    z, weight = crowd(torch.tensor([0, 0, 1, 1]), .49)
    assert z[:, 0].tolist() == [0, 1, 2, 3] and weight[0] > 9 and weight[1] == 0

@pytest.mark.parametrize('heavy, anew', [([9., 0, 0, 0], True), ([9., 9, 9, 0], False)])
def test_a_crowd_is_drawn_anew_below_half_of_its_effective_size(heavy, anew):
    push = torch.tensor(heavy)[:, None].expand(4, 3)
    strong = lambda z, logsnr, label: (label >= 0)[:, None]*push
    stay = lambda d, z, a, b, label, noise: z
    levels = torch.tensor([0., 1.])
    _, weight = next(tilting.sample_tilted(strong, Z.clone(), LABEL*0, levels, 1., stay))
    assert weight.any().item() != anew

def test_a_corrector_takes_one_step_of_a_tenth_unless_told_otherwise():
    args = denoiser, Z, LOGSNR, LOGSNR + 1, LABEL, torch.zeros_like
    one, two = (tilting.predictor_corrector(ddim, denoiser, *more)(*args) for more in ((), (1, .1)))
    assert one.equal(two)


def test_the_average_follows_the_weights_after_the_step():
    net = torch.nn.Linear(2, 1)
    average, opt = training.EMA(net, 0.), torch.optim.SGD(net.parameters(), .1)  # memory 0: a copy
    data = [(torch.ones(4, 2),)]*2
    for _ in training.train(lambda x: net(x).square().mean(), opt, data, average):
        assert torch.equal(average.net.weight, net.weight)


def test_a_network_that_is_opened_is_out_of_training_mode():
    assert not open_run('data/checkpoints/photographs.safetensors')[0].training
