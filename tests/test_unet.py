"""Our U-Net still is the network that was compared with guided-diffusion's, and PyTorch can compile
it in one piece."""
import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from bench.equivalence import compared_shapes, probe, sample_numbers
from bench.others import seeded_weights
from bench.records import newest
from cfg_lessons.diffusion import NULL
from cfg_lessons.networks import MLP
from cfg_lessons.pretrained import RELEASED, TableStep, openai_levels, released
from cfg_lessons.unet import (CLASSIFIER_DIGITS, DIGITS, Attention, AttentionPool, GroupNorm, UNet,
                              UNetClassifier, UNetConfig, film_norm, for_sampling)

RESULTS = Path(__file__).resolve().parent.parent/'data/results/bench'
FULL = ['ADM-128', 'ADM-256',
        'ADM-256, unconditional']  # too large for every test; `make equivalence` runs them


def test_the_comparison_on_record():
    record = newest(RESULTS, 'equivalence', what='answers')
    assert set(record['cases']) == set(compared_shapes())
    for name, case in record['cases'].items():
        assert case['same_names'] and max(
            case[k] for k in ('answer', 'gradient', 'parameter_gradients')) < 1e-5, name
    assert record['tables_apart'] < 1e-6


def test_records_say_what_made_them():
    "Each record of the bench names its commit, command and machine, and its ratios fit its times."
    for path in RESULTS.iterdir():
        record = json.loads(path.read_text())
        assert path.name.startswith(f'{record["bench"]}_{record["what"]}_')
        assert record['machine'] and record['command'] and record['versions']['torch']
        assert record['commit'] != 'unknown' and not record['commit'].endswith('+changes'), (
            path.name)
        timed = [c for c in record['cases'].values() if 'median' in c]
        for c in timed:
            assert c['ratio_low'] <= c['ratio'] <= c['ratio_high']
            assert .8 < c['ratio']*c['median']/timed[0]['median'] < 1.25, path.name


@pytest.mark.parametrize('name', [n for n in compared_shapes() if n not in FULL])
def test_still_the_same_network(name):
    """The numbers that our network gave when it was compared, from seeded weights, ADM-64 at full
    size among them."""
    config, case = compared_shapes()[name], newest(RESULTS, 'equivalence',
                                                   what='answers')['cases'][name]
    net = seeded_weights(UNet(config)).eval()
    assert sum(p.numel() for p in net.parameters()) == case['parameters']
    answer, _, _ = probe(net.requires_grad_(name != 'ADM-64'), config,
                         lambda net, *given: net(*given), case['batch'])
    stored = torch.tensor(case['numbers'])
    assert (torch.tensor(sample_numbers(answer)) - stored).abs().max() < 1e-5*stored.abs().max()


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_compiles_in_one_piece(layout):
    "No part of the network has to be left to Python, in training or out of it."
    config = UNetConfig(side=16, width=32, mults=(1, 2), blocks=1, attention=(8,), head_width=32,
                        num_classes=10)
    net = seeded_weights(UNet(config, TableStep(openai_levels('linear')))).to(memory_format=layout)
    z, logsnr, label = torch.randn(4, 3, 16, 16).to(memory_format=layout), torch.linspace(
        -3, 3, 4), torch.tensor([0, 3, 9, -1])
    for training in (False, True):
        net.train(training)
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
        torch.testing.assert_close(compiled(z, logsnr, label), net(z, logsnr, label), rtol=1e-4,
                                   atol=1e-4)
    compiled(z, logsnr, label).pow(2).mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_published_checkpoints_have_the_flags_of_their_readme():
    """What guided-diffusion's README and its defaults say of each file, and not what our
    configuration says."""
    # attention order, heads by width or number, schedule, classes, width, depth, multiples
    said = {
        '64x64_diffusion': (True, 64, 'cosine', 1000, 192, 3, (1, 2, 3, 4)),
        '128x128_diffusion': (False, 4, 'linear', 1000, 256, 2, (1, 1, 2, 3, 4)),
        '256x256_diffusion': (False, 64, 'linear', 1000, 256, 2, (1, 1, 2, 2, 4, 4)),
        '256x256_diffusion_uncond': (False, 64, 'linear', 0, 256, 2, (1, 1, 2, 2, 4, 4)),
        '64x64_classifier': (False, 64, 'cosine', 1000, 128, 4, (1, 2, 3, 4)),
        '128x128_classifier': (False, 64, 'linear', 1000, 128, 2, (1, 1, 2, 3, 4)),
        '256x256_classifier': (False, 64, 'linear', 1000, 128, 2, (1, 1, 2, 2, 4, 4))
    }
    assert list(said) == list(RELEASED)
    for name, (order, heads, schedule, classes, width, depth, mults) in said.items():
        with torch.device('meta'): net = released(name)
        c = net.config
        assert (c.new_order, c.head_width or c.heads, c.num_classes, c.width, c.blocks,
                c.mults) == (order, heads, classes, width, depth, mults)
        assert (c.side, c.attention, c.film, c.block_resampling) == (int(name.split('x')[0]),
                                                                     (32, 16, 8), True, True)
        if 'diffusion' in name:
            assert net.out[2].out_channels == 6
            assert not classes or len(net.label_emb.weight) == 1000
        assert net.step.exact.equal(TableStep(openai_levels(schedule)).exact)


def test_compiled_network_takes_any_batch():
    "A compiled network is not compiled anew for each size of the batch."
    torch._dynamo.reset()
    net = seeded_weights(
        UNet(
            UNetConfig(side=8, width=32, mults=(1,), blocks=1, attention=(), head_width=32,
                       num_classes=10))).eval()
    compiled = torch.compile(net, fullgraph=True, backend='eager')
    with torch.no_grad():
        for b in range(2, 14):
            z, logsnr, label = torch.randn(b, 3, 8, 8), torch.linspace(-3, 3,
                                                                       b), torch.zeros(b).long()
            torch.testing.assert_close(compiled(z, logsnr, label), net(z, logsnr, label), rtol=1e-4,
                                       atol=1e-4)


@pytest.mark.parametrize(
    'options', [{}, dict(film=False),
                dict(block_resampling=False),
                dict(new_order=False)])
def test_layouts_agree(options):
    "Answers and gradients do not depend on how pictures lie in memory."
    # Not 32 channels: with one to a group, normalisation removes an embedding that is only added,
    # and its gradient is rounding error.
    config = replace(
        UNetConfig(side=16, width=64, mults=(1, 2), blocks=1, attention=(8,), head_width=32,
                   num_classes=10), **options)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = seeded_weights(UNet(config)).to(memory_format=layout).eval()
        torch.manual_seed(0)
        z = torch.randn(4, 3, 16, 16).to(memory_format=layout).requires_grad_()
        net(z, torch.linspace(-3, 3, 4), torch.tensor([0, 3, 9, -1])).pow(2).mean().backward()
        found.append((z.grad, net.input_blocks[1][0].emb_layers[1].weight.grad,
                      net.middle_block[0].out_layers[0].weight.grad))
    for a, b in zip(*found):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5*a.abs().max().item())


@pytest.mark.parametrize('dropout', [0., .1])
def test_memory_predicted_on_fake_tensors(dropout):
    "A real call in 16 bits on the processor keeps what is predicted for a GPU, or nearly."
    from cfg_lessons.costs import activation_bytes
    from cfg_lessons.networks import in_bf16
    from torch.autograd.graph import saved_tensors_hooks
    config = UNetConfig(side=16, width=32, mults=(1, 2), blocks=1, attention=(), head_width=32,
                        num_classes=4, dropout=dropout)
    def really(batch):
        held, net = {}, UNet(config)
        own = {p.untyped_storage().data_ptr() for p in net.parameters()}
        def keep(t):
            held[t.untyped_storage().data_ptr()] = t
            return t
        z, zero = torch.randn(batch, 3, 16, 16), torch.zeros(batch)
        with saved_tensors_hooks(keep, lambda t: t): out = in_bf16(net)(z, zero, zero.long())
        return sum(t.untyped_storage().nbytes() for k, t in held.items() if k not in own)
    per_picture, _ = activation_bytes(config)
    assert abs(per_picture/((really(8) - really(4))/4) - 1) < .2  # one layer of attention is there


def test_openais_tables_follow_their_formulas():
    """Multiplied out in fractions of thirty digits (Ho, Jain & Abbeel 2020), and in closed form
    (Nichol & Dhariwal 2021, equation 17)."""
    alpha2 = Fraction(1)
    for i in range(1000):
        alpha2 *= 1 - (Fraction(1, 10_000) + Fraction(i, 999)*
                       (Fraction(2, 100) - Fraction(1, 10_000)))
        alpha2 = alpha2.limit_denominator(10**30)
        if i in (0, 500, 999):
            assert abs(math.log(alpha2/(1 - alpha2)) - openai_levels('linear')[i]) < 1e-9
    bar = lambda i: math.cos((i/1000 + .008)/1.008*math.pi/2)**2/math.cos(.008/1.008*math.pi/2)**2
    for i in (0, 500, 998):
        assert abs(math.log(bar(i + 1)/(1 - bar(i + 1))) - openai_levels('cosine')[i]) < 1e-6


def awake(net):
    "The network with random weights where it begins at zero, so that every part of it speaks."
    torch.manual_seed(0)
    for p in net.parameters():
        if p.eq(0).all(): torch.nn.init.normal_(p, std=.05)
    return net.eval()


Z, LOGSNR, LABEL = torch.linspace(-2, 2, 6*64).reshape(6, 1, 8, 8).sin(), torch.linspace(
    -8, 8, 6), torch.tensor([0, 3, 9, NULL, 5, 5])


@pytest.mark.parametrize('options', [{},
                                     dict(film=False),
                                     dict(block_resampling=False),
                                     dict(new_order=False, head_width=0, heads=2),
                                     dict(num_classes=0)])
def test_what_every_shape_promises(options):
    """An untrained network predicts zero; an example does not depend on its neighbours; level and
    class are read, NULL included; any size that divides goes."""
    config = replace(DIGITS, **options)
    net, label = UNet(config).eval(), LABEL if config.num_classes else torch.full((6,), NULL)
    assert net(Z, LOGSNR, label).eq(0).all()
    awake(net)
    together = net(Z, LOGSNR, label)
    alone = torch.cat([net(Z[i:i + 1], LOGSNR[i:i + 1], label[i:i + 1]) for i in range(6)])
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    assert not net(Z, LOGSNR + 1, label).allclose(together)
    if config.num_classes and config.film:
        said = [net(Z, LOGSNR, torch.full((6,), c)) for c in (NULL, *range(10))]
        assert min((a - b).abs().max() for i, a in enumerate(said) for b in said[:i]) > 1e-3
    assert net(Z[:0], LOGSNR[:0], label[:0]).shape == (0, 1, 8, 8)
    assert net(torch.zeros(1, 1, 12, 16), LOGSNR[:1], label[3:4]).shape == (1, 1, 12, 16)
    together.pow(2).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def refused(words, f, *args, **options):
    with pytest.raises(ValueError, match=re.escape(words)) as e: f(*args, **options)
    assert '\n' not in str(e.value)


def test_shapes_and_batches_that_cannot_be():
    net, judge = UNet(DIGITS), UNetClassifier(CLASSIFIER_DIGITS)
    refused('at least one stage', UNetConfig, mults=())
    for options in (dict(heads=0,
                         head_width=0), dict(side=0), dict(blocks=0), dict(num_classes=-1)):
        refused('must be 1 or more', UNetConfig, **options)
    refused('must divide by 8', UNetConfig, side=20)
    refused('multiple of 32', GroupNorm, 48)
    refused('do not divide into 5 heads', Attention, 64, 5)
    refused('heads of 64', UNet, UNetConfig(side=8, width=32, mults=(1,), attention=(8,)))
    refused('takes (B, 1, H, W)', net, torch.zeros(2, 3, 8, 8), LOGSNR[:2], LABEL[:2])
    refused('takes (B, 1, H, W)', net, torch.zeros(2, 1, 8), LOGSNR[:2], LABEL[:2])
    for z in (torch.zeros(2, 1, 7, 8), torch.zeros(2, 1, 8, 7)):
        refused('divisible by 2', net, z, LOGSNR[:2], LABEL[:2])
    refused('one log-SNR per example', net, Z, LOGSNR[:1], LABEL)
    refused('outside 0 to 9', net, Z, LOGSNR, LABEL + 5)
    refused('no row for NULL', UNet(replace(DIGITS, null_row=False)), Z, LOGSNR, LABEL)
    refused('at least one class', UNetClassifier, replace(DIGITS, num_classes=0))
    refused('8 × 8 only', judge, torch.zeros(5, 1, 16, 16), torch.zeros(5))
    refused('one log-SNR per example', judge, Z, LOGSNR[:1])
    refused('eps_only(for_sampling(net))', for_sampling, lambda *given: net(*given))


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_the_merged_norm_is_the_plain_one(layout):
    torch.manual_seed(0)
    norm, h, scale, shift = GroupNorm(64), torch.randn(2, 64, 6,
                                                       6).to(memory_format=layout), torch.randn(
                                                           2, 64), torch.randn(2, 64)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    plain = torch.nn.functional.group_norm(h, 32, norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(norm(h), plain)
    torch.testing.assert_close(film_norm(norm, h, scale, shift),
                               plain*(1 + scale[:, :, None, None]) + shift[:, :, None, None],
                               rtol=1e-4, atol=1e-4)


def test_attention_in_the_legacy_layout():
    """Queries, keys and values of each head lie together; otherwise it is the attention of the
    chapter."""
    legacy, x = awake(Attention(64, heads=4, new_order=False)), torch.randn(2, 64, 4, 4)
    assert Attention(64, 4)(x).equal(x)
    q, k, v = legacy.qkv(legacy.norm(x).reshape(2, 64, 16)).reshape(2*4, 3*16, 16).split(16, 1)
    fits = (torch.einsum('hcq,hck->hqk', q, k)/16**.5).softmax(2)
    by_hand = x + legacy.proj_out(torch.einsum('hqk,hck->hcq', fits, v).reshape(2, 64, 16)).reshape(
        2, 64, 4, 4)
    torch.testing.assert_close(legacy(x), by_hand, rtol=1e-5, atol=1e-5)


def test_the_average_asks_and_the_places_answer():
    "Attention pooling is the first answer of an attention in which the average and all places ask."
    torch.manual_seed(0)
    pool, x = AttentionPool(4, 64, heads=2, leave=10), torch.randn(3, 64, 4, 4)
    places = torch.cat(
        [x.flatten(2).mean(2, keepdim=True), x.flatten(2)], 2) + pool.positional_embedding
    q, k, v = pool.qkv_proj(places).reshape(3, 3, 2, 32, 17).unbind(1)
    fits = (torch.einsum('bhcq,bhck->bhqk', q, k)/32**.5).softmax(3)
    everybody = pool.c_proj(torch.einsum('bhqk,bhck->bhcq', fits, v).reshape(3, 64, 17))
    torch.testing.assert_close(pool(x), everybody[:, :, 0], rtol=1e-4, atol=1e-5)
    judge = awake(UNetClassifier(CLASSIFIER_DIGITS))
    quiet, loud = judge(Z[:1].expand(2, -1, -1, -1), torch.tensor([4., 0.]))
    assert quiet.shape == (10,) and (quiet - loud).abs().max() > 1e-4


def test_a_copy_for_sampling():
    """It answers in the precision of what it is asked, about what the network answers, and leaves
    that alone; a network of points is copied as well."""
    net = awake(UNet(replace(DIGITS, side=16, width=64, channels=3, attention=(8,)))).train()
    z, logsnr, label = torch.randn(4, 3, 16, 16), torch.zeros(4), torch.tensor([0, 3, 9, NULL])
    quick, rough = for_sampling(net, torch.float32), for_sampling(net)
    with torch.no_grad(): exactly, roughly = quick(z, logsnr, label), rough(z, logsnr, label)
    assert net.training and next(net.parameters()).requires_grad
    assert next(net.parameters()).dtype == roughly.dtype == torch.float32
    assert not next(rough.parameters()).requires_grad
    assert next(rough.parameters()).dtype == torch.bfloat16
    torch.testing.assert_close(net.eval()(z, logsnr, label), exactly, rtol=1e-4, atol=1e-5)
    assert 0 < (roughly - exactly).norm()/exactly.norm() < .03
    points = for_sampling(MLP(2, 3))(torch.randn(5, 2), torch.zeros(5), torch.zeros(5).long())
    assert points.shape == (5, 2) and points.dtype == torch.float32
