"The bench for guidance rules: equal conditions, fair sentences, and what a rule is taken to be."
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from cfg_lessons.beyond import tangential
from cfg_lessons.classifier_free import batched_cfg, classifier_free
from cfg_lessons.compare import (RULES, check_rule, cost_at_gain, draw, measure, run_rule,
                                 search_options, settings_of, steps_of)
from cfg_lessons.diagnosis import diagnose
from cfg_lessons.mixtures import sample_mixture, three_gaussians
from cfg_lessons.page import interval_of, verdicts
from cfg_lessons.sampling import ddim, sample
from cfg_lessons.settings import settings
from cfg_lessons.worlds import WORLDS, plane_judge, read_rows


@pytest.fixture(scope='module')
def world():
    "The exact three Gaussians."
    return WORLDS['three Gaussians, exact'](None, None, False)

@pytest.fixture
def small(world):
    "The same with few samples."
    return replace(world, n=90, samplings=3, weights=(.5, 1.), batch_size=40)


def as_step(denoiser, z, logsnr, logsnr_next, label, noise, w):
    return ddim(classifier_free(denoiser, w), z, logsnr, logsnr_next, label)

def as_sampler(denoiser, z, label, logsnrs, noise, w):
    return sample(classifier_free(denoiser, w), z, label, logsnrs)

@pytest.mark.parametrize('rule', [as_step, as_sampler])
def test_a_step_and_a_sampler_with_a_weight_draw_as_the_guidance_does(small, rule):
    free = replace(small, limit=lambda denoiser: denoiser)
    want = draw(classifier_free, free, 1.5, {}, 9, 0)[0]
    got = draw(rule, free, 1.5, {}, 9, 0)[0]  # but for the last prediction, which no sampler makes
    assert (got - want).norm(
        dim=1).median() < .05 < (want - draw(rule, free, 0., {}, 9, 0)[0]).norm(dim=1).median()

def test_a_sampler_without_a_weight_is_given_plain_guidance(small):
    torch.testing.assert_close(
        draw(sample, small, 1.5, {}, 9, 0)[0],
        draw(classifier_free, small, 1.5, {}, 9, 0)[0])

def test_examples_do_not_depend_on_the_batch_size(small):
    whole = replace(small, batch_size=90)
    for rule in (classifier_free, RULES['predictor_corrector']):
        torch.testing.assert_close(
            draw(rule, small, 1., {}, 5, 3)[0],
            draw(rule, whole, 1., {}, 5, 3)[0])


@pytest.mark.parametrize('name, T', [('plain', 32), ('autoguidance', 32),
                                     ('predictor_corrector', 16)])
def test_every_rule_may_ask_64_times(world, name, T):
    found = steps_of(RULES[name], world, settings_of(RULES[name]))
    assert found['T'] == T and found['evaluations'] <= 64

def test_without_guidance_one_evaluation_a_level_is_enough(world):
    assert steps_of(lambda denoiser, w: denoiser, world, {}) == dict(T=64, evaluations=64)

def test_settings_are_numbers_with_a_default():
    assert settings_of(RULES['interval']) == dict(low=-2., high=2.5)
    assert settings_of(RULES['autoguidance']) == settings_of(RULES['plain']) == {}
    tried = search_options(RULES['interval'], 20)
    assert tried[0] == dict(low=-2., high=2.5) and len(tried) == 20
    assert all(-8 <= t['low'] <= -.5 and .625 <= t['high'] <= 10 for t in tried)
    assert {t['repeats'] for t in search_options(RULES['predictor_corrector'], 20)} <= {1, 2, 3, 4}

def test_both_labels_in_one_batch_are_two_evaluations(world):
    assert steps_of(batched_cfg, world, {})['T'] == 32


def wrong_shape(denoiser, w): return lambda z, logsnr, label: denoiser(z, logsnr, label)[:, :1]
def not_finite(denoiser, w): return lambda z, logsnr, label: 0*z/0
def strange_class(denoiser, w): return lambda z, logsnr, label: denoiser(z, logsnr, label + 1)
def no_arguments(): return None

def unseeded(denoiser, w):
    return lambda z, logsnr, label: denoiser(z, logsnr, label) + .1*torch.from_numpy(
        np.random.default_rng().normal(size=z.shape)).to(z)

memory = []
def remembers(denoiser, w):
    memory.append(1)
    return lambda z, logsnr, label: denoiser(z, logsnr, label)*(1 + .01*len(memory))

@pytest.mark.parametrize('rule, said', [(wrong_shape, 'shape'), (not_finite, 'not finite'),
                                        (strange_class, 'give 0 to 2'),
                                        (no_arguments, r'give \(denoiser, w\)'),
                                        (unseeded, 'no seed decides'),
                                        (remembers, 'from one run to the next')])
def test_a_rule_that_cannot_be_judged_is_refused_in_a_sentence(world, rule, said):
    with pytest.raises(ValueError, match=said) as e: check_rule(rule, world)
    assert '\n' not in str(e.value)

def test_rules_that_toss_seeded_coins_or_remember_within_a_run_are_taken(world):
    for name in ('other class', 'apg', 'predictor_corrector'): check_rule(RULES[name], world)


def test_cost_at_gain_is_read_off_the_curve_where_it_first_gets_there():
    w = np.array([0, 1, 4, 9.])  # gain 2 root(w), cost 3 root(w): lines in the root of the weight
    assert cost_at_gain(w, 2*w**.5, 3*w**.5, 3.) == pytest.approx(4.5, rel=1e-3)
    assert cost_at_gain(w, [0, 2, 1, 2], [0, 4, 9, 9], 1.999) == pytest.approx(4, rel=.03)
    assert math.isnan(cost_at_gain(w, [0, 1, 1, 1], w, 1.5))
    assert math.isnan(cost_at_gain(w, [1, 2, 3, 4], w, .5))

@pytest.mark.parametrize('factor', [.7, 1.4])
def test_plain_guidance_with_another_name_for_its_weight_costs_nearly_the_same(world, factor):
    many = replace(world, n=300, samplings=3)
    rows = []
    def point(rule, name, w):
        rows.append(
            dict(rule=name, w=w, numbers=measure(rule, many, w, {}, range(3), 32)['numbers']))
    point(classifier_free, 'no guidance', 0.)
    for w in many.weights:
        point(classifier_free, 'plain', w)
        point(lambda denoiser, w: classifier_free(denoiser, factor*w), 'mine', w)
    assert abs(verdicts(rows, many)['mine'][0][0]) < .006  # straight lines are off by .04

def test_one_comparison_has_the_interval_of_the_t_test_and_several_a_wider_one():
    d = [.3, .1, .25, .4]
    want = stats.ttest_1samp(d, 0).confidence_interval(.95)
    mean, reach = interval_of(d, 1)
    assert (mean - reach, mean + reach) == pytest.approx((want.low, want.high))
    want = stats.ttest_1samp(d, 0).confidence_interval(1 - .05/7)
    assert interval_of(d, 7)[1] == pytest.approx((want.high - want.low)/2)
    assert math.isnan(interval_of([.3, math.nan], 1)[0])

def test_the_judge_finds_little_amiss_with_true_samples_and_measures_a_shift():
    x, label = sample_mixture(three_gaussians(), 3000, seed=7)
    judge = plane_judge(three_gaussians())
    true, moved = judge(x, label, 0.), judge(x + torch.tensor([.5, 0.]), label, 0.)
    assert true['wasserstein'] < .06 and true['outside'] == pytest.approx(.01, abs=.006)
    assert true['lost'] == 0
    assert moved['overshoot'] == pytest.approx(1., abs=.1)  # half a unit is one standard deviation
    assert moved['wasserstein'] == pytest.approx(.5/2**.5,
                                                 abs=.06)  # a shift seen from a random direction

def test_the_tilted_density_is_nearer_to_tilted_samples_than_the_data_are():
    x, label = sample_mixture(three_gaussians(), 60_000, seed=8)
    from cfg_lessons.mixtures import log_posterior
    log_p = log_posterior(three_gaussians(), x, torch.full((len(x), ),
                                                           7.)).gather(1, label[:, None])[:, 0]
    keep = torch.rand(len(x),
                      generator=torch.Generator().manual_seed(0)) < (4*log_p).exp()  # rejection
    found = plane_judge(three_gaussians())(x[keep][:3000], label[keep][:3000], 4.)
    assert found['tilted'] < .06 < .08 < found['wasserstein']


def test_plain_guidance_is_diagnosed_as_plain_guidance_with_a_gradient_and_a_limit(world):
    found = diagnose(classifier_free, world, {}, w=1.5)
    assert found.explained > 1 - 1e-9 and found.curl < 1e-6
    assert max(abs(v - 1.5) for v in found.weight) < 1e-6
    assert found.moved[128] < .2*found.moved[16]

def test_cfg_plus_plus_is_found_to_be_the_schedule_of_chapter_13(world):
    found = diagnose(RULES['cfg_plus_plus'], world, {}, w=1.)
    steps = world.levels(64)[:-1].diff()
    inside = [k for k, l in enumerate(found.logsnr) if -8 < l < 4]
    for k in inside:
        assert found.weight[k] == pytest.approx(.5/(1 - math.exp(-steps[k]/2)) - 1, rel=1e-4)
    assert found.explained > .999 and found.moved[128] > found.moved[16]

def test_projection_is_not_plain_guidance_in_disguise(world):
    found = diagnose(RULES['apg'], world, dict(eta=0., momentum=0., radius=math.inf))
    assert found.explained < .9 and max(map(abs, found.along)) < 1e-6 and found.curl > .01

def test_fresh_noise_cannot_be_diagnosed(world):
    with pytest.raises(ValueError, match='fresh noise'):
        diagnose(RULES['predictor_corrector'], world, {})


class Stopped(Exception): pass

def test_a_comparison_that_was_stopped_goes_on_and_ends_with_the_same_numbers(small, tmp_path):
    def stop(w): raise Stopped
    for name in ('no guidance', 'plain'):
        with pytest.raises(Stopped): run_rule(RULES['plain'], name, small, tmp_path/'cut', [], stop)
        run_rule(RULES['plain'], name, small, tmp_path/'cut', [])
        run_rule(RULES['plain'], name, small, tmp_path/'whole', [])
    numbers = [[(r['rule'], r['w'], r['numbers']) for r in read_rows(tmp_path/f)]
               for f in ('cut', 'whole')]
    assert numbers[0] == numbers[1] and len(numbers[0]) == 3

def test_a_rule_that_fails_somewhere_gets_a_row_that_says_why(small, tmp_path):
    run_rule(RULES['perturbed_attention'], 'blind', small, tmp_path/'rows', [])
    assert all('no Attention' in r['why'] for r in read_rows(tmp_path/'rows'))

def test_a_damaged_file_of_rows_is_refused_in_a_sentence(tmp_path):
    (tmp_path/'rows').write_text('{"rule": "plain"}\n{"ru')
    with pytest.raises(ValueError, match='holds no rows'): read_rows(tmp_path/'rows')

def test_plain_guidance_costs_nothing_more_than_itself_and_a_half_of_it_is_told_apart(world):
    point = lambda rule, w, gain, cost: dict(rule=rule, w=w, numbers=dict(
        probability=gain, wasserstein=cost))
    seeds = np.array([0., .01, -.01, .02, 0.])
    rows = [
        point('no guidance', 0., list(.5 + seeds), list(.1 + seeds)),
        point('plain', 1., list(.9 + seeds), list(.5 + seeds)),
        point('mine', 1., list(.92 + seeds), list(.3 + seeds))
    ]
    found = verdicts(rows, world)
    assert found['plain'][0] == (0., 0.)
    mean, reach = found['mine'][0]
    part = math.log(.5/.1)/math.log(
        .5/.08)  # of the way from .5 to .92, by the logarithm of what is left to 1
    assert mean + reach < 0 and mean == pytest.approx(.1 + .2*part - .5, abs=.005)


def test_tangential_damping_is_that_of_diffusers():
    guiders = pytest.importorskip('diffusers.guiders.tangential_classifier_free_guidance')
    cond, free = torch.randn(2, 5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = tangential(
        lambda z, logsnr, label: torch.where((label < 0).reshape(-1, 1, 1, 1), free, cond), 1.5)
    got = ours(torch.zeros(5, 3, 8, 8), torch.zeros(5), torch.arange(5))
    torch.testing.assert_close(got, guiders.normalized_guidance(cond, free, 2.5), rtol=1e-4,
                               atol=1e-5)

def test_stored_rows_of_plain_guidance_come_out_again(world):
    stored = {r['w']: r for r in read_rows(settings().data/'results'/'compare'/'quick.jsonl')
              if r['world'] == world.name and r['rule'] == 'plain'}
    again = measure(RULES['plain'], world, 1., {}, range(2), stored[1.]['T'])['numbers']
    for k, values in again.items():
        assert values == pytest.approx(stored[1.]['numbers'][k][:2], rel=.02, abs=.01), k

def test_a_rule_from_a_file_is_judged_by_the_command_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'power.py').write_text('''
from cfg_lessons.classifier_free import guide, unconditional
def power_law(denoiser, w, power=.9):
    "The push times a power of its own length (after Pavasovic et al. 2025)."
    def f(z, logsnr, label):
        eps, rest = denoiser(z, logsnr, label), unconditional(denoiser)(z, logsnr, label)
        size = (eps - rest).flatten(1).norm(dim=1, keepdim=True)
        return guide(eps, rest, w*size**power)
    return f
''')
    from cfg_lessons.bench import cfg_compare
    cfg_compare(
        ['power:power_law', '--worlds', 'three Gaussians, exact', '--out',
         str(tmp_path/'page')])
    assert 'page.html' in capsys.readouterr().out
    text = (tmp_path/'page'/'page.md').read_text()
    assert '# power_law, beside' in text and 'power = 0.9' in text
    assert 'minus that of plain guidance' in text
    html = (tmp_path/'page'/'page.html').read_text()
    assert html.count('data:image/png;base64') == 2 and '<table>' in html
    assert 'indistinguishable' in html
    rows = [
        json.loads(line)
        for line in next((tmp_path/'page').glob('quick_*.jsonl')).read_text().splitlines()
    ]
    assert [r['w'] for r in rows if r['rule'] == 'power_law'] == [.5, 1., 2., 4.]

@pytest.mark.parametrize(
    'words, said', [(['nowhere:rule'], 'cannot be found'), (['broken:rule'], 'cannot be found'),
                    (['mine:plain'], 'another with --name'),
                    (['mine:rule', '--worlds', 'moon'], 'world is'),
                    (['mine:rule', '--stored', 'nowhere.jsonl'], 'There is no file nowhere.jsonl')])
def test_what_cannot_be_compared_is_said_in_a_sentence(words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path/'broken.py').write_text('def rule(:')
    (tmp_path/'mine.py').write_text('def rule(denoiser, w): return denoiser\nplain = rule\n')
    from cfg_lessons.bench import cfg_compare
    with pytest.raises(SystemExit) as e: cfg_compare([*words, '--out', str(tmp_path/'page')])
    assert said in str(e.value) and '\n' not in str(e.value).strip()

def test_a_rule_that_fails_at_one_weight_gets_the_other_rows(small, tmp_path):
    def fragile(denoiser, w):
        if w < 1: raise KeyError('no such weight')
        return classifier_free(denoiser, w)
    run_rule(fragile, 'fragile', small, tmp_path/'rows', [])
    assert [('why' in r, r['w']) for r in read_rows(tmp_path/'rows')] == [(True, .5), (False, 1.)]
