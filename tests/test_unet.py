"Our U-Net still is the network that was compared with guided-diffusion's, and PyTorch can compile it in one piece."
import json
import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from bench.equivalence import compared_shapes, probe, sample_numbers
from bench.others import seeded_weights
from bench.records import newest
from cfg_lessons.pretrained import RELEASED, TableStep, openai_levels, released
from cfg_lessons.unet import UNet, UNetConfig

RESULTS = Path(__file__).resolve().parent.parent/'data/results/bench'
FULL = ['ADM-128', 'ADM-256', 'ADM-256, unconditional']  # too large for every test; `make equivalence` runs them


def test_the_comparison_on_record():
    record = newest(RESULTS, 'equivalence', what='answers')
    assert set(record['cases']) == set(compared_shapes())
    for name, case in record['cases'].items():
        assert case['same_names'] and max(case[k] for k in ('answer', 'gradient', 'parameter_gradients')) < 1e-5, name
    assert record['tables_apart'] < 1e-6


def test_records_say_what_made_them():
    "Each record of the bench names its commit, command and machine, and its ratios fit its times."
    for path in RESULTS.iterdir():
        record = json.loads(path.read_text())
        assert path.name.startswith(f'{record["bench"]}_{record["what"]}_')
        assert record['machine'] and record['command'] and record['versions']['torch']
        assert record['commit'] != 'unknown' and not record['commit'].endswith('+changes'), path.name
        timed = [c for c in record['cases'].values() if 'median' in c]
        for c in timed:
            assert c['ratio_low'] <= c['ratio'] <= c['ratio_high']
            assert .8 < c['ratio']*c['median']/timed[0]['median'] < 1.25, path.name


@pytest.mark.parametrize('name', [n for n in compared_shapes() if n not in FULL])
def test_still_the_same_network(name):
    "The numbers that our network gave when it was compared, from seeded weights, ADM-64 at full size among them."
    config, case = compared_shapes()[name], newest(RESULTS, 'equivalence', what='answers')['cases'][name]
    net = seeded_weights(UNet(config)).eval()
    assert sum(p.numel() for p in net.parameters()) == case['parameters']
    answer, _, _ = probe(net.requires_grad_(name != 'ADM-64'), config, lambda net, *given: net(*given), case['batch'])
    stored = torch.tensor(case['numbers'])
    assert (torch.tensor(sample_numbers(answer)) - stored).abs().max() < 1e-5*stored.abs().max()


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_compiles_in_one_piece(layout):
    "No part of the network has to be left to Python, in training or out of it."
    config = UNetConfig(side=16, width=32, mults=(1, 2), blocks=1, attention=(8,), head_width=32, num_classes=10)
    net = seeded_weights(UNet(config, TableStep(openai_levels('linear')))).to(memory_format=layout)
    z, logsnr, label = torch.randn(4, 3, 16, 16).to(memory_format=layout), torch.linspace(-3, 3, 4), torch.tensor([0, 3, 9, -1])
    for training in (False, True):
        net.train(training)
        torch._dynamo.reset()
        compiled = torch.compile(net, fullgraph=True, backend='aot_eager')
        torch.testing.assert_close(compiled(z, logsnr, label), net(z, logsnr, label), rtol=1e-4, atol=1e-4)
    compiled(z, logsnr, label).pow(2).mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())


def test_published_checkpoints_have_the_flags_of_their_readme():
    "What guided-diffusion's README and its defaults say of each file, and not what our configuration says."
    said = {  # attention order, heads by width or number, schedule, classes, width, depth, multiples
        '64x64_diffusion': (True, 64, 'cosine', 1000, 192, 3, (1, 2, 3, 4)),
        '128x128_diffusion': (False, 4, 'linear', 1000, 256, 2, (1, 1, 2, 3, 4)),
        '256x256_diffusion': (False, 64, 'linear', 1000, 256, 2, (1, 1, 2, 2, 4, 4)),
        '256x256_diffusion_uncond': (False, 64, 'linear', 0, 256, 2, (1, 1, 2, 2, 4, 4)),
        '64x64_classifier': (False, 64, 'cosine', 1000, 128, 4, (1, 2, 3, 4)),
        '128x128_classifier': (False, 64, 'linear', 1000, 128, 2, (1, 1, 2, 3, 4)),
        '256x256_classifier': (False, 64, 'linear', 1000, 128, 2, (1, 1, 2, 2, 4, 4))}
    assert list(said) == list(RELEASED)
    for name, (order, heads, schedule, classes, width, depth, mults) in said.items():
        with torch.device('meta'): net = released(name)
        c = net.config
        assert (c.new_order, c.head_width or c.heads, c.num_classes, c.width, c.blocks, c.mults) == (order, heads, classes, width, depth, mults)
        assert (c.side, c.attention, c.film, c.block_resampling) == (int(name.split('x')[0]), (32, 16, 8), True, True)
        if 'diffusion' in name: assert net.out[2].out_channels == 6 and (not classes or len(net.label_emb.weight) == 1000)
        assert net.step.exact.equal(TableStep(openai_levels(schedule)).exact)


def test_compiled_network_takes_any_batch():
    "A compiled network is not compiled anew for each size of the batch."
    torch._dynamo.reset()
    net = seeded_weights(UNet(UNetConfig(side=8, width=32, mults=(1,), blocks=1, attention=(), head_width=32, num_classes=10))).eval()
    compiled = torch.compile(net, fullgraph=True, backend='eager')
    with torch.no_grad():
        for b in range(2, 14):
            z, logsnr, label = torch.randn(b, 3, 8, 8), torch.linspace(-3, 3, b), torch.zeros(b).long()
            torch.testing.assert_close(compiled(z, logsnr, label), net(z, logsnr, label), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('options', [{}, dict(film=False), dict(block_resampling=False), dict(new_order=False)])
def test_layouts_agree(options):
    "Answers and gradients do not depend on how pictures lie in memory."
    # Not 32 channels: with one to a group, normalisation removes an embedding that is only added, and its gradient is rounding error.
    config = replace(UNetConfig(side=16, width=64, mults=(1, 2), blocks=1, attention=(8,), head_width=32, num_classes=10), **options)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        net = seeded_weights(UNet(config)).to(memory_format=layout).eval()
        torch.manual_seed(0)
        z = torch.randn(4, 3, 16, 16).to(memory_format=layout).requires_grad_()
        net(z, torch.linspace(-3, 3, 4), torch.tensor([0, 3, 9, -1])).pow(2).mean().backward()
        found.append((z.grad, net.input_blocks[1][0].emb_layers[1].weight.grad, net.middle_block[0].out_layers[0].weight.grad))
    for a, b in zip(*found): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5*a.abs().max().item())


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
    "Multiplied out in fractions of thirty digits (Ho, Jain & Abbeel 2020), and in closed form (Nichol & Dhariwal 2021, equation 17)."
    alpha2 = Fraction(1)
    for i in range(1000):
        alpha2 *= 1 - (Fraction(1, 10_000) + Fraction(i, 999)*(Fraction(2, 100) - Fraction(1, 10_000)))
        alpha2 = alpha2.limit_denominator(10**30)
        if i in (0, 500, 999): assert abs(math.log(alpha2/(1 - alpha2)) - openai_levels('linear')[i]) < 1e-9
    bar = lambda i: math.cos((i/1000 + .008)/1.008*math.pi/2)**2/math.cos(.008/1.008*math.pi/2)**2
    for i in (0, 500, 998): assert abs(math.log(bar(i + 1)/(1 - bar(i + 1))) - openai_levels('cosine')[i]) < 1e-6
