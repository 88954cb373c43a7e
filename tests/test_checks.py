"""The checks of appendix 94: each of the twelve faults, planted in a copy of the function in which
it could happen, is reported in a sentence; what is right passes; and every sampler, step, guidance
rule and denoiser of the book is asked."""
import inspect
import sys
from functools import partial
from itertools import count, islice
from pathlib import Path

import pytest
import torch
from torch import nn

from cfg_lessons import beyond, classifier_free as cf, pretrained, sampling, tilting
from cfg_lessons.checks import (check_batches, check_denoiser, check_dropping, check_ema,
                                check_guidance, check_noisy_classifier, check_ranks,
                                check_reference, check_sampler)
from cfg_lessons.classifier_free import classifier_free, extrapolate, unconditional
from cfg_lessons.classifier_guidance import classifier_guided
from cfg_lessons.diffusion import NULL, cosine, predict_x, velocity
from cfg_lessons.evaluation import Extractor, evaluate, make_reference, register
from cfg_lessons.images import batches, digits, from_uint8, normalize, random_flip
from cfg_lessons.metrics import digits_features
from cfg_lessons.mixtures import (exact_denoiser, log_posterior, rings, sample_mixture,
                                  three_gaussians, tree)
from cfg_lessons.networks import MLP, VHead
from cfg_lessons.sampling import ancestral, clipped, ddim, dpmpp_2m, heun, per_example_noise, sample
from cfg_lessons.training import EMA, denoising_loss, drop_label, load, train
from cfg_lessons.unet import CLASSIFIER_DIGITS, DIGITS, UNet, UNetClassifier

STORED = Path(__file__).resolve().parent.parent/'data'/'checkpoints'
MIXTURE = three_gaussians()
POSTERIOR = partial(log_posterior, MIXTURE)


def planted(f, old, new):
    """A copy of a function or class of the library with some of its text exchanged; the text has to
    be there."""
    text = inspect.getsource(f)
    assert text.count(old) == 1, f'{f.__name__} has {text.count(old)} times {old!r}'
    names = dict(vars(sys.modules[f.__module__]))
    exec(text.replace(old, new), names)
    return names[f.__name__]

def stored(kind, name, config):
    net = kind(config).eval().requires_grad_(False)
    load(STORED/f'{name}.safetensors', net)
    return net

@pytest.fixture(scope='module')
def good(): return stored(UNet, 'digits', DIGITS)

@pytest.fixture(scope='module')
def pictures():
    x, y = digits('test')
    return from_uint8(torch.from_numpy(x[:50])), torch.from_numpy(y[:50])

def says(found, words):
    assert len(found) >= 1 and any(words in sentence for sentence in found), (words, found)
    assert all(s.endswith('.') for s in found), found


# The twelve.

def small_run(loop):
    "A new network, its average, and a training of both by `loop(net, ema)`."
    torch.manual_seed(0)
    net = MLP(2, 3, width=16)
    ema = EMA(net, .999, warm=False)
    return loop(net, ema), net, ema.net

def by_train(loop):
    return lambda net, ema: loop(partial(denoising_loss, net, cosine),
                                 torch.optim.Adam(net.parameters(), 1e-3),
                                 [sample_mixture(MIXTURE, 64)]*9, ema)

def handed_over_early(net, ema):
    """The order of events in smalldiffusion's training loop, whose caller updates the average:
    yield, and only then the step."""
    opt, (x, label) = torch.optim.Adam(net.parameters(), 1e-3), sample_mixture(MIXTURE, 64)
    for _ in range(9):
        opt.zero_grad()
        loss = denoising_loss(net, cosine, x, label)
        ema.update()
        yield loss
        loss.backward()
        opt.step()

def test_1_average_of_the_step_before():
    late = planted(train, '        opt.step()\n        if ema is not None: ema.update()\n',
                   '        if ema is not None: ema.update()\n        opt.step()\n')
    says(check_ema(*small_run(by_train(late))), 'the step before')
    says(check_ema(*small_run(handed_over_early)), 'before the weights have moved')
    says(check_ema(*small_run(by_train(lambda loss, opt, data, ema: train(loss, opt, data)))),
         'does not move')
    assert not check_ema(*small_run(by_train(train)))
    net = MLP(2, 3, width=16)
    ema = EMA(net)
    assert not check_ema(by_train(train)(net, ema), net, ema.net)  # with the warm-up of the decay

def test_2_labels_dropped_by_the_batch():
    says(check_dropping(planted(drop_label, 'torch.rand(len(label), ', 'torch.rand(1, ')),
         'one coin decides for many')
    says(check_dropping(planted(drop_label, '>= p_uncond', '>= p_uncond**2')), 'instead of 10.0%')
    says(check_dropping(planted(drop_label, ', NULL)', ', 0)')), 'kept are changed, or')
    for p in (.05, .1, .5): assert not check_dropping(drop_label, p)
    assert not check_dropping(
        lambda label, p: torch.where(drop_label(label, p) == NULL, 1000, label), null=1000)

def test_3_s_read_as_w(monkeypatch):
    def diffusers_form(d, s):
        return lambda z, l, c: unconditional(d)(z, l, c) + s*(d(z, l, c) - unconditional(d)
                                                              (z, l, c))
    says(check_guidance(diffusers_form), 's = 1 + w')
    assert not check_guidance(lambda d, w: diffusers_form(d, 1 + w), linear=True)
    monkeypatch.setattr(cf, 'guide',
                        planted(cf.guide, '(1 + w)*eps - w*eps_weak', 'w*eps + (1 - w)*eps_weak'))
    says(check_guidance(classifier_free), 'w = 1 changes nothing')

def answering_v(net):
    return lambda z, l, c: velocity(predict_x(z, l, net(z, l, c)), l, net(z, l, c))

def test_4_velocity_read_as_noise(good, pictures):
    Wrong = planted(VHead, 'eps_from_velocity(z, logsnr, self.net(z, logsnr, label))',
                    'self.net(z, logsnr, label)')
    v_net = answering_v(clipped(good))
    for head, bad in [(Wrong(v_net), True), (VHead(v_net), False)]:
        found = check_denoiser(head, *pictures)
        says(found, 'read as velocity') if bad else nothing(found)
    says(check_denoiser(lambda *a: predict_x(a[0], a[1],
                                             clipped(good)(*a)), *pictures), 'read as data')

def nothing(found): assert not found, found

@pytest.mark.parametrize('step', [ddim, ancestral, heun])
def test_5_noise_schedule_off_by_one(step):
    text = inspect.getsource(step).replace('denoiser(z, logsnr, label)',
                                           'denoiser(z, logsnr_next, label)')
    names = dict(vars(sampling))
    exec(text, names)
    says(check_sampler(partial(sample, step=names[step.__name__])), 'denoiser is given differ')
    assert not check_sampler(partial(sample, step=step))

def test_6_clipping_forgotten(good, pictures):
    says(check_denoiser(planted(clipped, 'x_hat.clamp(-limit, limit)', 'x_hat')(good), *pictures),
         'put clipped round it')
    assert not check_denoiser(clipped(good), *pictures)
    assert not check_denoiser(good, *pictures, low=-2.)

def with_variance(net):
    """A network that answers twice the channels: noise, and how much variance it wants, which
    depends on the class."""
    return lambda z, l, c: torch.cat([net(z, l, c), .1*net(z, l, c).sigmoid()], 1)

def test_7_guided_variance(good, pictures):
    full, x, label = with_variance(exact_denoiser(MIXTURE)), *sample_mixture(MIXTURE, 60)
    careless = planted(pretrained.eps_only, '[:, :z.shape[1]]', '')
    for cut, bad in [(careless, True), (pretrained.eps_only, False)]:
        found = check_guidance(lambda d, w: classifier_free(cut(d), w), full, x, label, linear=True)
        says(found, 'guides the channels of the variance') if bad else nothing(found)
    def put_back(d, w):  # what guided-diffusion's heirs do, when they do it right
        return lambda z, l, c: torch.cat(
            [classifier_free(pretrained.eps_only(d), w)(z, l, c),
             d(z, l, c)[:, z.shape[1]:]], 1)
    assert not check_guidance(put_back, full, x, label, linear=True)
    def one_of_two(d, w):
        return lambda z, l, c: torch.cat([classifier_free(d, w)(z, l, c)[:, :1],
                                          d(z, l, c)[:, 1:]], 1)

    says(check_guidance(one_of_two, linear=True),
         'it is not (1 + w) eps')  # DiT's three channels of four, with two
    says(check_denoiser(with_variance(clipped(good)), *pictures), 'a learned variance')

def test_8_classifier_of_clean_pictures(pictures):
    features = digits_features(STORED/'digits_features.safetensors')
    says(check_noisy_classifier(lambda z, logsnr: features((z + 1)*127.5)[1], *pictures),
         'sure of what it cannot see')
    assert not check_noisy_classifier(
        stored(UNetClassifier, 'digits_classifier', CLASSIFIER_DIGITS), *pictures)
    x, label = sample_mixture(MIXTURE, 300)
    says(
        check_noisy_classifier(lambda z, logsnr: POSTERIOR(z, torch.full_like(logsnr, 20.)), x,
                               label), 'sure of what it cannot see')
    assert not check_noisy_classifier(POSTERIOR, x, label)
    says(check_noisy_classifier(lambda z, logsnr: torch.zeros(len(z), 3), x, label),
         'does not know the classes')

def test_9_data_from_0_to_255():
    x, y = digits()
    for scale, words in [('x.float()', 'reach from 0 to 255'), ('x.float()/255', 'not centred'),
                         ('x.float()/127.5/255 - .002', 'as if scaled twice')]:
        says(check_batches(planted(normalize, 'from_uint8(x)', scale)(batches(x, y, 64)), 10),
             words)
    says(check_batches(batches(x, y, 64), 10), 'are torch.uint8')
    says(check_batches(normalize(batches(x, y, 64)), 9), 'Labels are')
    says(
        check_batches(
            normalize((torch.from_numpy(x[y == i % 10][:64]), torch.from_numpy(y[y == i % 10][:64]))
                      for i in count()), 10), 'one class only')
    says(check_batches(normalize(next(batches(x, y, 64)) for _ in count()), 10),
         'Two batches are equal')
    assert not check_batches(normalize(batches(x, y, 64)), 10)
    assert not check_batches(random_flip(normalize(batches(x, y, 64))), 10)
    assert not check_batches([sample_mixture(MIXTURE, 64, seed=i) for i in range(8)], 3, limit=4.)

def test_10_another_preparation():
    register('digits', digits_features, channels=1)
    extract, (x, _) = Extractor('digits', STORED/'digits_features.safetensors'), digits()
    x = torch.from_numpy(x[:400])
    def prepared(f):
        reference = make_reference(f(x), extract, 'digits', 'as said')
        return lambda pictures: evaluate(pictures, reference, extract)['fid']
    def through_28(x):
        return nn.functional.interpolate(
            nn.functional.interpolate(x.float(), (28, 28), mode='bilinear'), (8, 8),
            mode='bilinear').byte()
    says(check_reference(prepared(through_28), x), 'prepared in another way')
    assert not check_reference(prepared(lambda x: x), x)
    says(check_reference(lambda pictures: 1., x), 'is blind')

def coins(flip):
    """rank -> which of its pictures are mirrored: each is dark on the left, so that the coin can be
    read from it."""
    ramp = torch.linspace(-1, 1, 4).expand(16, 1, 4, 4)
    return lambda rank: torch.cat([
        x[:, 0, 0, 0] > 0 for x, _ in islice(flip([(ramp, None)]*8, seed=0, rank=rank, ranks=4), 8)
    ])

def test_11_the_same_numbers_on_all_ranks():
    says(check_ranks(coins(planted(random_flip, '[rank]', '[0]')), 4), 'the same numbers')
    assert not check_ranks(coins(random_flip), 4)
    says(check_ranks(lambda rank: per_example_noise(0, range(64))(torch.empty(64, 2))),
         'the same numbers')
    says(check_ranks(lambda rank: torch.rand(64)), 'cannot be resumed')
    assert not check_ranks(
        lambda rank: per_example_noise(0, range(64*rank, 64*rank + 64))(torch.empty(64, 2)), 8)

def test_12_dropout_left_on(good, pictures):
    Careless = planted(EMA, 'copy.deepcopy(net).eval()', 'copy.deepcopy(net)')
    net = UNet(DIGITS).train()
    load(STORED/'digits.safetensors', net)
    for average, bad in [(Careless(net), True), (EMA(net), False)]:
        found = check_denoiser(clipped(average.net), *pictures)
        says(found, 'training mode') if bad else nothing(found)
    class Normalized(MLP):
        def __init__(self): super().__init__(2, 3, 16); self.norm = nn.BatchNorm1d(2)
        def forward(self, z, logsnr, label): return self.norm(z) + super().forward(z, logsnr, label)
    x, label = sample_mixture(MIXTURE, 100)
    says(check_denoiser(Normalized(), x, label), 'training mode')


# More that a denoiser, a sampler or a rule can have.

def test_denoisers(good, pictures):
    x, label = pictures
    for p in ('digits_p0.2', 'digits_p0.5'):
        assert not check_denoiser(clipped(stored(UNet, p, DIGITS)), x, label)
    assert not check_denoiser(clipped(classifier_free(good, .3)), x, label)
    assert not check_denoiser(unconditional(clipped(good)), x, torch.full_like(label, NULL))
    says(check_denoiser(unconditional(clipped(good)), x, label), 'not listen to the label')
    says(
        check_denoiser(clipped(lambda z, l, c: good(z, l, torch.where(c == NULL, c, (c + 5) % 10))),
                       x, label), 'order of the labels')
    says(
        check_denoiser(clipped(lambda z, l, c: good(z, l, torch.where(c == NULL, 3, c))), x,
                       torch.where(label == 3, 8, label)), 'NULL was not trained')
    says(check_denoiser(clipped(good), (x + 1)/2, label), 'the scale of the data')
    for mixture in (MIXTURE, rings(), tree()):
        assert not check_denoiser(exact_denoiser(mixture), *sample_mixture(mixture, 200))

def corrected(d, z, l, l_next, c, noise):
    return tilting.predictor_corrector(ddim, d)(d, z, l, l_next, c, noise)


STEPS = dict(ddim=ddim, heun=heun, ancestral=ancestral, ancestral_mixed=partial(ancestral, mix=.3),
             ancestral_large=partial(ancestral, mix=1.), corrected=corrected,
             shifted_mean=pretrained.shifted_mean(POSTERIOR, 0.))  # off: with w it guides inside

@pytest.mark.parametrize('name', STEPS)
def test_every_step_of_the_book(name):
    assert not check_sampler(partial(sample, step=STEPS[name]))
    assert not check_sampler(partial(sample, step=STEPS[name]), torch.linspace(-9, 9, 60))

def test_a_step_with_guidance_inside():
    """CFG++ guides: it does not sample from the denoiser that it was given, and the check says so;
    so does a step with a classifier in it."""
    says(check_sampler(partial(sample, step=beyond.cfg_plus_plus)), 'guidance inside')
    says(check_sampler(partial(sample, step=pretrained.shifted_mean(POSTERIOR, 3.))),
         'guidance inside')

def test_the_multistep_sampler(): assert not check_sampler(dpmpp_2m)

RULES = dict(classifier_free=classifier_free,
             classifier=lambda d, w: classifier_guided(d, POSTERIOR, w), rescaled=beyond.rescaled,
             apg=beyond.apg, apg_momentum=partial(beyond.apg, momentum=-.5,
                                                  radius=2.), zero_star=beyond.zero_star,
             interval=lambda d, w: beyond.scheduled(d, beyond.interval(w, -2., 2.)),
             linear=lambda d, w: beyond.scheduled(d, beyond.linear_weight(w)),
             cosine=lambda d, w: beyond.scheduled(d, beyond.cosine_weight(w)),
             independent=lambda d, w: extrapolate(d, beyond.relabelled(d, beyond.any_class(3)), w))
LINEAR = dict(classifier_free=classifier_free, classifier=RULES['classifier'],
              no_init=partial(beyond.zero_star, zero_init_share=0., project=False),
              everywhere=lambda d, w: beyond.scheduled(d, beyond.interval(w)),
              all_kept=partial(beyond.apg, eta=1.), phi_0=partial(beyond.rescaled, phi=0.))

@pytest.mark.parametrize('name', RULES)
def test_every_rule_of_the_book(name): assert not check_guidance(RULES[name])

@pytest.mark.parametrize('name', LINEAR)
def test_rules_that_promise_the_formula(name): assert not check_guidance(LINEAR[name], linear=True)

def test_rules_of_networks(good, pictures):
    x, label = (t[:20] for t in pictures)
    blind = beyond.perturbed_attention(good)
    assert not check_guidance(classifier_free, good, x, label, linear=True)
    assert not check_guidance(lambda d, w: extrapolate(d, blind, w), good, x, label)

@pytest.mark.parametrize('rule, words',
                         [(lambda d, w: extrapolate(unconditional(d), d, w), 'w = 0 is not off'),
                          (lambda d, w: extrapolate(d, unconditional(d), -w), 'push away'),
                          (lambda d, w: d, 'changes nothing'),
                          (lambda d, w: lambda z, l, c: classifier_free(d, w)
                           (z, l, c)[:3], 'It answers'),
                          (lambda d, w: classifier_free(d, w**2), 'it is not (1 + w)')])
def test_wrong_rules(rule, words): says(check_guidance(rule, linear=True), words)

def own_noise(d, z, l, l_next, c, noise): return ancestral(d, z, l, l_next, c, torch.randn_like)
def averaged(d, z, l, l_next, c, noise): return ddim(d, z, l, l_next, c) + .01*(z.mean(0) - z)
def eps_kept(d, z, l, l_next, c, noise):
    "DDIM that clips the prediction and renoises with the noise from before the clip."
    eps = d(z, l, c)
    return sampling.diffuse(predict_x(z, l, eps).clamp(-.5, .5), l_next, eps)
def all_but_last(*args, noise): return islice(sample(*args, noise=noise), 63)

@pytest.mark.parametrize(
    'sampler, words',
    [(partial(sample, step=own_noise), 'besides those of noise'),
     (partial(sample, step=averaged), 'others in its batch'),
     (partial(sample, step=eps_kept), 'misses the point'), (all_but_last, 'It makes 63 steps'),
     (partial(sample,
              step=lambda d, z, l, m, c, noise: ancestral(d, z, l, m, c, lambda z: 2*noise(z))),
      'noise that is left'),
     (partial(sample, step=lambda d, z, l, m, c, noise: ancestral(d, z, l, m, c, torch.zeros_like)),
      'noise that is left'),
     (partial(sample, step=lambda d, z, l, m, c, noise: ddim(unconditional(d), z, l, m, c)),
      'guidance inside')])
def test_wrong_samplers(sampler, words): says(check_sampler(sampler), words)


# Somebody else's samplers.

def of_diffusers(scheduler, T, **more):
    "A scheduler of diffusers as a sampler of this book; `more` goes to its `step`."
    table = torch.from_numpy(pretrained.scheduler_levels(scheduler))
    def sampler(denoiser, z, label, logsnrs, noise):
        scheduler.set_timesteps(T)
        for t in scheduler.timesteps:
            eps = denoiser(z, table[t].expand(len(z)).to(z), label)
            extra = dict(variance_noise=noise(z), **more) if more else {}
            z = scheduler.step(eps, t, z, **extra).prev_sample
            yield z
    return sampler

@pytest.mark.filterwarnings('ignore')
def test_schedulers_of_diffusers():
    """With the spacing `linspace`, DDIM of diffusers 0.42 and before steps to another level than
    the one it asks about next (their issue 12633)."""
    import diffusers
    quiet = dict(clip_sample=False)
    for T in (10, 50):
        for spacing in ('leading', 'trailing', 'linspace'):
            for kind, more in [(diffusers.DDIMScheduler, quiet),
                               (diffusers.DPMSolverMultistepScheduler, {})]:
                scheduler = kind(timestep_spacing=spacing, **more)
                found = check_sampler(of_diffusers(scheduler, T),
                                      pretrained.scheduler_steps(scheduler, T))
                if kind is diffusers.DDIMScheduler and spacing == 'linspace':
                    says(found, 'denoiser is given differ')
                elif T == 50: assert not found, (kind, spacing, found)
                else: assert all('too few steps' in s for s in found), found
    ddim_like_ddpm = diffusers.DDIMScheduler(timestep_spacing='trailing', **quiet)
    assert not check_sampler(of_diffusers(ddim_like_ddpm, 50, eta=1.),
                             pretrained.scheduler_steps(ddim_like_ddpm, 50))
    ddpm = diffusers.DDPMScheduler(timestep_spacing='trailing', **quiet)
    says(check_sampler(of_diffusers(ddpm, 50), pretrained.scheduler_steps(ddpm, 50)),
         'besides those of noise')


K_SAMPLERS = ('euler', 'heun', 'dpm_2', 'lms', 'dpmpp_2m', 'euler_ancestral', 'dpm_2_ancestral',
              'dpmpp_2s_ancestral', 'dpmpp_sde', 'dpmpp_2m_sde')


def of_k_diffusion(sampler):
    "A sampler of k-diffusion, which counts noise as sigma/alpha, as a sampler of this book."
    def run(denoiser, z, label, logsnrs, noise):
        def scaled(x, logsnr): return torch.sigmoid(logsnr).sqrt()[:, None]*x
        def model(x, sigma):
            logsnr = -2*sigma.log()
            return x - sigma[:, None]*denoiser(scaled(x, logsnr), logsnr, label)
        more, seen = {}, []
        if 'noise_sampler' in inspect.signature(sampler).parameters:
            more['noise_sampler'] = lambda sigma, sigma_next: noise(z)
        x = z/scaled(torch.ones_like(z), logsnrs[:1].expand(len(z)))
        x = sampler(model, x, (-logsnrs/2).exp(), disable=True,
                    callback=lambda state: seen.append(state['x']), **more)
        for x, logsnr in zip((*seen[1:], x), logsnrs[1:]): yield scaled(x, logsnr.expand(len(z)))
    return run


@pytest.mark.parametrize('name', K_SAMPLERS)
def test_samplers_of_k_diffusion(name):
    "Where it is installed; it is no dependency of the book, and brings many of its own."
    theirs = pytest.importorskip('k_diffusion.sampling')
    assert not check_sampler(of_k_diffusion(getattr(theirs, f'sample_{name}')))


def test_too_much_noise_in_a_sampler_of_k_diffusion_is_found():
    theirs = pytest.importorskip('k_diffusion.sampling')
    def loud(model, x, sigmas, noise_sampler, **more):
        def noise(sigma, sigma_next): return 1.2*noise_sampler(sigma, sigma_next)
        return theirs.sample_euler_ancestral(model, x, sigmas, noise_sampler=noise, **more)
    says(check_sampler(of_k_diffusion(loud)), 'noise')
