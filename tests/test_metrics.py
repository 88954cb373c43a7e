"""The measures and their tool: against scipy, torch-fidelity and closed forms, on awkward input,
and at any size."""
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from cfg_lessons import evaluation, metrics, records
from cfg_lessons.images import digits, open_images, save_images
from cfg_lessons.evaluation import (INCEPTION, Extractor, evaluate, load_reference, make_reference,
                                    open_pictures, register, save_reference)
from cfg_lessons.metrics import (DigitsFeatures, Moments, digits_features, ScoreSums,
                                 frechet_distance, inception_score, kernel_distance,
                                 precision_recall)
from cfg_lessons.records import check_comparable, curve, read_records, write_record

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT/'data'/'checkpoints'/'digits_features.safetensors'


def moments(x):
    return Moments(x.shape[1]).add(x)

def fid(x, y):
    a, b = moments(x), moments(y)
    return frechet_distance(a.mean, a.cov, b.mean, b.cov)

def random_features(n, d, seed, shift=0.):
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=g) @ torch.randn(d, d, generator=g)).relu() + shift

@pytest.fixture(scope='module')
def extract():
    register('digits', digits_features, channels=1)
    return Extractor('digits', WEIGHTS)

@pytest.fixture(scope='module')
def train():
    return torch.from_numpy(digits()[0])

@pytest.fixture(scope='module')
def reference(extract, train):
    return make_reference(train, extract, 'digits-train', 'as they are')

@pytest.fixture(scope='module')
def inception(tmp_path_factory):
    "A file of seeded random weights for torch-fidelity's Inception."
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Net
    path = tmp_path_factory.mktemp('inception')/'random.pth'
    torch.manual_seed(0)
    with patch(
            'torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url'), patch.object(
                Net, 'load_state_dict'):
        net = Net(INCEPTION, ['2048'])
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.parametrize('n, d', [(500, 16), (3000, 64), (400, 256), (300, 256)])
def test_measures_agree_with_torch_fidelity_and_scipy(n, d):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kernel_mmd
    from torch_fidelity.metric_prc import calculate_precision_recall_full
    x, y = random_features(n, d, 0), random_features(n + 100, d, 1, .1)
    s = [fid_features_to_statistics(t.double()) for t in (x, y)]
    theirs = fid_statistics_to_metric(*s, False)['frechet_inception_distance']
    root = scipy.linalg.sqrtm(s[0]['sigma'] @ s[1]['sigma']).real
    by_scipy = np.square(s[0]['mu'] - s[1]['mu']).sum() + np.trace(s[0]['sigma'] + s[1]['sigma'] -
                                                                   2*root)
    assert fid(x, y) == pytest.approx(theirs, rel=1e-8)
    assert fid(x, y) == pytest.approx(by_scipy, rel=1e-8)
    assert precision_recall(y, x) == pytest.approx(calculate_precision_recall_full(x, y, 3),
                                                   abs=1e-6)
    assert kernel_distance(x, y[:n]) == pytest.approx(
        kernel_mmd(x.double().numpy(), y[:n].double().numpy()), rel=1e-8)
    for splits in (1, 7, 10):
        isc = isc_features_to_metric(x, splits)
        ours = inception_score(x.double().softmax(1), splits)
        assert ours.mean().item() == pytest.approx(isc['inception_score_mean'], rel=1e-10)
        assert ours.std(correction=0).item() == pytest.approx(isc['inception_score_std'], rel=1e-8,
                                                              abs=1e-12)


def test_closed_forms():
    "Gaussians: commuting covariances in 5 dimensions, and a singular one; scores of known tables."
    a, b = torch.rand(5).double() + .1, torch.rand(5).double() + .1
    turn = torch.linalg.qr(torch.randn(5, 5).double())[0]
    m = torch.randn(5).double()
    expect = m.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    zero = torch.zeros(5).double()
    assert frechet_distance(m, turn*a@turn.T, zero,
                            turn*b@turn.T) == pytest.approx(expect.item(), rel=1e-10)
    a[2] = 0.
    expect = (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(zero, turn*a@turn.T, zero,
                            turn*b@turn.T) == pytest.approx(expect.item(), rel=1e-6)
    p = torch.eye(4).repeat(25, 1)
    torch.testing.assert_close(inception_score(p, 5, None), torch.full((5,), 4.).double())
    by_class = torch.eye(4).repeat_interleave(25, 0)
    torch.testing.assert_close(inception_score(by_class, 4, None), torch.ones(4).double())
    assert inception_score(by_class, 4).min() > 3.5


def test_moments_do_not_depend_on_the_cut():
    x = random_features(2000, 32, 3, 1000.)
    whole = moments(x)
    for cut in (1, 7, 333, 2000):
        parts = Moments(32)
        for part in x.split(cut): parts.add(part)
        torch.testing.assert_close(parts.cov, whole.cov, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-14, atol=0)
    torch.testing.assert_close(whole.cov, x.double().T.cov(), rtol=1e-11, atol=1e-11)


def test_scores_do_not_depend_on_the_cut():
    p = random_features(1003, 20, 4).double().softmax(1)
    for cut in (1, 64, 1003):
        sums = ScoreSums(len(p))
        for part in p.split(cut): sums.add(part)
        torch.testing.assert_close(sums.scores(), inception_score(p), rtol=1e-12, atol=0)
    torch.testing.assert_close(sums.scores(together=True), inception_score(p, 1), rtol=1e-12,
                               atol=0)


def test_evaluation_does_not_depend_on_batches_or_order(extract, reference, train):
    x, y = digits('test')
    one = evaluate(x, reference, extract, y, batch_size=64)
    for other, label, size in [(x, y, 7), (x[::-1], y[::-1], 100)]:
        two = evaluate(other, reference, extract, label, batch_size=size)
        for k in ('fid', 'kid', 'precision', 'recall', 'accuracy', 'is_whole'):
            assert two[k] == pytest.approx(one[k], rel=1e-5), k
    assert evaluate(train, reference, extract)['fid'] == pytest.approx(0, abs=1e-6)


def test_evaluation_is_what_torch_fidelity_makes_of_the_same_pictures(inception, tmp_path):
    """The whole path with an Inception of random weights, from a folder of PNGs, against
    calculate_metrics."""
    import torch_fidelity
    g = np.random.default_rng(0)
    for name in ('real', 'fake'):
        (tmp_path/name).mkdir()
        for i in range(68):
            tint = g.integers(0, 200,
                              (1, 1, 3)) if name == 'real' else g.integers(50, 150, (1, 1, 3))
            Image.fromarray(
                (tint + g.integers(0, 56,
                                   (16, 16, 3))).astype(np.uint8)).save(tmp_path/name/f'{i:03}.png')
    extract = Extractor(weights=inception, layer='64')
    reference = make_reference(tmp_path/'real', extract, 'noise', 'none')
    ours = evaluate(tmp_path/'fake', reference, extract)
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path/'fake'), input2=str(tmp_path/'real'), feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(inception), feature_layer_fid='64',
        feature_layer_kid='64', feature_layer_prc='64', fid=True, isc=True, prc=True, kid=True,
        kid_subsets=1, kid_subset_size=68, cuda=False, cache=False, save_cpu_ram=True,
        verbose=False)
    assert ours['fid'] == pytest.approx(theirs['frechet_inception_distance'],
                                        rel=1e-4)  # its mean is taken in float32
    assert ours['is_mean'] == pytest.approx(theirs['inception_score_mean'], rel=1e-3)
    assert ours['kid'] == pytest.approx(theirs['kernel_inception_distance_mean'], rel=1e-3)
    assert (ours['precision'], ours['recall']) == pytest.approx(
        (theirs['precision'], theirs['recall']), abs=1e-6)
    assert ours['files'] == 'lossless' and ours['resize'].startswith('to 299')
    assert ours['layer'] == '64'


def test_reference_files(extract, reference, inception, tmp_path):
    """Our references come back, and are read by names that guided-diffusion uses; files of OpenAI's
    layout are read."""
    save_reference(tmp_path/'ours.npz', reference)
    again = load_reference(tmp_path/'ours.npz', extract)
    assert again[:3] == reference[:3] and again[6:] == reference[6:]
    assert all(torch.equal(a, b) for a, b in zip(again[3:6], reference[3:6]))
    with np.load(tmp_path/'ours.npz') as f:
        assert f['mu'].shape == (64,) and f['sigma'].shape == (64, 64)
    x = digits('test')[0]
    np.savez(tmp_path/'VIRTUAL_digits_labeled.npz', arr_0=x.transpose(0, 2, 3, 1),
             mu=reference.mean, sigma=reference.cov, mu_s=np.zeros(3), sigma_s=np.eye(3))
    theirs = load_reference(tmp_path/'VIRTUAL_digits_labeled.npz', extract)
    a, b = evaluate(x, reference, extract), evaluate(x, theirs, extract)
    assert a['fid'] == pytest.approx(b['fid'], rel=1e-9) and b['precision'] == b['recall'] == 1
    assert b['reference'] == 'VIRTUAL_digits_labeled' and 'guided-diffusion' in b['preparation']
    statistics = tmp_path/'statistics_only.npz'
    np.savez(statistics, mu=reference.mean, sigma=reference.cov)
    c = evaluate(x, load_reference(statistics, extract), extract)
    assert c['fid'] == pytest.approx(a['fid'], rel=1e-9) and c['precision'] is c['kid'] is None
    with pytest.raises(ValueError, match='made with another extractor'):
        load_reference(tmp_path/'ours.npz', Extractor(weights=inception, layer='64'))
    with pytest.raises(ValueError, match='another extractor'):
        evaluate(np.zeros((80, 3, 8, 8), np.uint8), reference,
                 Extractor(weights=inception, layer='64'))
    (tmp_path/'torn.npz').write_bytes((tmp_path/'ours.npz').read_bytes()[:2000])
    with pytest.raises(ValueError, match='no reference file'):
        load_reference(tmp_path/'torn.npz', extract)


def test_pictures_from_anywhere(extract, reference, tmp_path):
    """An array, our memory map, guided-diffusion's .npz and a folder of PNGs give the same numbers;
    JPEGs are named."""
    x, y = digits('test')
    save_images(tmp_path/'set', x, y)
    np.savez(tmp_path/'samples.npz', x.transpose(0, 2, 3, 1), y)
    for kind in ('png', 'jpg'):
        (tmp_path/kind).mkdir()
        for i, image in enumerate(x): Image.fromarray(image[0]).save(tmp_path/kind/f'{i:04}.{kind}')
    np.savez_compressed(tmp_path/'packed.npz', arr_0=np.asfortranarray(x.transpose(0, 2, 3, 1)))
    sources = [
        x,
        torch.from_numpy(x),
        open_images(tmp_path/'set')[0], tmp_path/'set', tmp_path/'samples.npz',
        tmp_path/'packed.npz', tmp_path/'png'
    ]
    found = [evaluate(s, reference, extract) for s in sources]
    for f in found[1:]:
        assert f['fid'] == pytest.approx(found[0]['fid'], rel=1e-5) and f['files'] == 'lossless'
    lossy = evaluate(tmp_path/'jpg', reference, extract)
    assert lossy['files'] == 'lossy (.jpg)' and lossy['fid'] > found[0]['fid']
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path/'png'/'0100b.png')
    with pytest.raises(ValueError, match=r'0100b.png is \(1, 9, 9\), earlier'):
        evaluate(tmp_path/'png', reference, extract)
    (tmp_path/'png'/'0100b.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='0100b.png cannot be read as a picture'):
        evaluate(tmp_path/'png', reference, extract)
    wide = tmp_path/'png'/'0100b.png'
    for mode, dtype in [('I;16', np.uint16), ('LA', None)]:
        image = Image.fromarray(np.full(
            (8, 8), 70*257, dtype)) if dtype else Image.new(mode, (8, 8))
        image.save(wide)
        with pytest.raises(ValueError, match='its mode is .*; save it as 8-bit'):
            evaluate(tmp_path/'png', reference, extract)
    torn = (tmp_path/'packed.npz').read_bytes()
    (tmp_path/'torn.npz').write_bytes(torn[:300] + b'nonsense' + torn[308:])
    with pytest.raises(ValueError, match='cannot be opened'): open_pictures(tmp_path/'torn.npz')
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='holds no pictures'): open_pictures(tmp_path/'empty')
    with pytest.raises(ValueError, match='cannot be opened as a folder of pictures or an .npz'):
        open_pictures(tmp_path/'nothing.npz')


BAD = {
    'floats': (lambda x: x.float(), 'use to_uint8'),
    'signed': (lambda x: x.to(torch.int8), 'use to_uint8'),
    'three channels': (lambda x: x.expand(-1, 3, 8, 8), 'have 3 channels, the extractor wants 1'),
    'not square': (lambda x: x[..., :6], 'give square ones'),
    'flat': (lambda x: x[:, 0], 'give square ones'),
    'too few': (lambda x: x[:64], '64 examples are too few for the covariance of 64 features'),
    'a list': (lambda x: list(x), 'not as list'),
    'nothing': (lambda x: None, 'not as NoneType'),
    'constant': (lambda x: x[5:6].repeat(101, 1, 1, 1), 'the same features'),
    'none': (lambda x: x[:0], '0 examples cannot be cut'),
    'five': (lambda x: x[:5], '5 examples cannot be cut into 10 parts'),
    'all the same': (lambda x: x[:1].expand(100, 1, 8, 8), 'the same features')
}

@pytest.mark.parametrize('name', BAD)
def test_bad_pictures_get_one_sentence(name, extract, reference, train):
    spoil, sentence = BAD[name]
    with pytest.raises(ValueError, match=sentence) as e:
        evaluate(spoil(train[:200]), reference, extract)
    assert '\n' not in str(e.value)


@pytest.mark.parametrize('more, sentence',
                         [(dict(batch_size=0), 'batch_size is 0'), (dict(keep=3), 'keep 3'),
                          (dict(splits=0), 'cut into 0 parts'), (dict(label=[1, 2]), 'labels (2,)'),
                          (dict(label=np.full(200, 10)), 'one class per example'),
                          (dict(label=np.full(200, .5)), 'one class per example')], ids=str)
def test_bad_arguments_get_one_sentence(more, sentence, extract, reference, train):
    with pytest.raises(ValueError) as e: evaluate(train[:200], reference, extract, **more)
    assert sentence in str(e.value) and '\n' not in str(e.value)


def test_references_of_other_pictures_are_told_apart(extract, train):
    "The same name does not make two references alike, nor does another size pass."
    x = digits('test')[0]
    one, other = (make_reference(pictures, extract, 'same', 'same')
                  for pictures in (train, 255 - train))
    a, b = (record() | evaluate(x, r, extract) for r in (one, other))
    with pytest.raises(ValueError, match='reference_sha256 is'): check_comparable([a, b])
    fewer = record() | evaluate(x, make_reference(train, extract, 'same', 'same', keep=100),
                                extract)
    with pytest.raises(ValueError, match='reference_sha256 is'): check_comparable([a, fewer])
    large = make_reference(
        train.repeat_interleave(2, 2).repeat_interleave(2, 3), extract, 'large', 'doubled')
    with pytest.raises(ValueError, match='The samples are 1x8x8, the reference 1x16x16'):
        evaluate(x, large, extract)


def test_the_sick_picture_is_named(reference, train):
    class Sick:
        identity, channels = reference.extractor, 1
        def __init__(self): self.at = 0
        def __call__(self, images):
            features = torch.randn(len(images), 64)
            if self.at <= 150 < self.at + len(images): features[150 - self.at] = torch.nan
            self.at += len(images)
            return features, torch.full((len(images), 10), .1)
    with pytest.raises(ValueError, match='example 150 are not finite'):
        evaluate(train[:200], reference, Sick(), batch_size=64)


def test_far_features_keep_their_digits():
    "In float32, features around 1,000 would lose their distances; the measures compute in float64."
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 16, generator=g), torch.randn(400, 16, generator=g)
    assert precision_recall(x + 1024, y + 1024) == pytest.approx(
        precision_recall((x + 1024).double(), (y + 1024).double()), abs=0)
    assert metrics.coverage(x + 1024, y + 1024) == metrics.coverage((x + 1024).double(),
                                                                    (y + 1024).double())


def test_grey_pictures_are_told_what_inception_wants(inception):
    extract = Extractor(weights=inception, layer='64')
    reference = evaluation.Reference('r', 'none', 9, torch.zeros(64), torch.eye(64), None,
                                     extract.identity, None, '')
    with pytest.raises(ValueError, match='wants 3. Repeat a grey picture three times'):
        evaluate(torch.zeros(100, 1, 8, 8, dtype=torch.uint8), reference, extract)


def test_bad_features_get_one_sentence(extract, reference):
    nan = torch.randn(10, 3).index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(torch.nan))
    for f, sentence in [
        (lambda: Moments(3).add(nan), 'example 4 are not finite'),
        (lambda: kernel_distance(nan, nan), 'example 4'),
        (lambda: precision_recall(nan, nan), 'example 4'),
        (lambda: Moments(3).add(torch.ones(2, 3).long()), 'torch.int64'),
        (lambda: Moments(4).add(torch.randn(9, 3)), 'These are 3 features; earlier: 4'),
        (lambda: precision_recall(torch.randn(3, 2), torch.randn(9, 2)),
         '3 examples; this measure needs 4'),
        (lambda: kernel_distance(torch.randn(1, 2), torch.randn(9, 2)),
         '1 examples; this measure needs 2'),
        (lambda: frechet_distance(*[torch.randn(3)]*4), 'do not fit'),
        (lambda: frechet_distance(torch.zeros(2), torch.full(
            (2, 2), torch.nan), torch.zeros(2), torch.eye(2)), 'not finite'),
        (lambda: inception_score(torch.randn(30, 5)), 'take a softmax'),
        (lambda: kernel_distance(torch.randn(9, 2), torch.randn(9, 3)),
         'One set has 2 features, the other 3'),
        (lambda: frechet_distance(torch.zeros(2), -torch.eye(2), torch.zeros(2), torch.eye(2)),
         'negative variance'),
        (lambda: metrics.coverage(torch.randn(9, 2), nan[:, :2]), 'example 4'),
        (lambda: metrics.total_variation(torch.randn(9, 2), torch.ones(4), 2.),
         'the grid is too coarse'),
        (lambda: metrics.sliced_wasserstein(torch.randn(9, 2), torch.randn(8, 2)),
         'as many of each'),
        (lambda: ScoreSums(30).add(torch.full((31, 2), .5)), '30 examples were announced'),
        (lambda: ScoreSums(30).add(torch.full((20, 2), .5)).scores(), 'Only 20 of 30')
    ]:
        with pytest.raises(ValueError, match=sentence) as e: f()
        assert '\n' not in str(e.value)


def test_weights_that_are_no_weights(tmp_path):
    """A missing file, a program in disguise and another network are refused before torch-fidelity
    opens them."""
    class Program:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'was_run'),)
    torch.save(Program(), tmp_path/'program.pth')
    torch.save(DigitsFeatures().state_dict(), tmp_path/'other.pth')
    torch.save({'fc.weight': torch.zeros(1008, 2048)}, tmp_path/'part.pth')
    (tmp_path/'empty.pth').touch()
    (tmp_path/'torn.pth').write_bytes(b'PK\x03\x04torn')
    for path, sentence in [(None, 'No Inception weights are named'),
                           (tmp_path/'no.pth', 'There are no Inception weights'),
                           (tmp_path/'program.pth', 'cannot be opened safely'),
                           (tmp_path/'torn.pth', 'cannot be opened safely'),
                           (tmp_path/'other.pth', 'holds no Inception'),
                           (tmp_path/'empty.pth', 'cannot be opened safely')]:
        with pytest.raises(ValueError, match=sentence) as e: Extractor(weights=path)
        assert 'toshas/torch-fidelity' in str(e.value) and '6726825d' in str(e.value)
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='cannot be made from .*part.pth') as e:
        Extractor(weights=tmp_path/'part.pth')
    assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match="'vgg16' is none of"):
        Extractor('vgg16', tmp_path/'program.pth', layer='fc2')
    assert not (tmp_path/'was_run').exists()
    with pytest.raises(ValueError, match='There is no file None'): Extractor('digits')
    with pytest.raises(ValueError, match='on gpu'): Extractor('digits', WEIGHTS, device='gpu')
    assert Extractor('digits', WEIGHTS,
                     layer='logits')(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))[0].shape == (2, 10)
    with pytest.raises(ValueError, match='holds no features of digits'):
        digits_features(tmp_path/'torn.pth')
    with pytest.raises(ValueError, match='is none of inception-v3-compat'):
        Extractor('inception', WEIGHTS)


def test_memory_stays_flat(extract):
    """Ten times as many pictures need no more memory: measured in a process of its own, from a
    memory map larger than the allowance."""
    code = """
import numpy as np, resource, sys, torch
from cfg_lessons.evaluation import *
from cfg_lessons.metrics import *
torch.set_num_threads(1)
register('digits', digits_features, 1)
extract = Extractor('digits', sys.argv[1])
def pictures(n):
    class Endless:
        shape, dtype = (n, 1, 8, 8), np.dtype(np.uint8)
        def __len__(self): return n
        def __getitem__(self, rows):
            rng = np.random.default_rng(rows.start)
            return rng.integers(0, 256, (rows.stop - rows.start, 1, 8, 8), np.uint8)
    return Endless()
reference = make_reference(pictures(2000), extract, 'noise', 'none', keep=1000)
peaks = []
for n in (10_000, 200_000):
    evaluate(pictures(n), reference, extract, batch_size=500, keep=1000)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
print(peaks[1] - peaks[0])
"""
    done = subprocess.run([sys.executable, '-c', code, str(WEIGHTS)], capture_output=True,
                          text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 25, (
        f'{done.stdout} MiB more')  # the features alone would be 49 MiB, the probabilities 15


def record(**changes):
    made = dict(dataset='digits', guidance='classifier-free', w=.1, p_uncond=.1, T=32,
                sampler='ancestral', mix=.3, seed=0, network='net', checkpoint_sha256='0',
                command='x')
    found = dict.fromkeys(records.COMPARABLE, 'a') | dict(fid=1., n=100, dataset='digits')
    return made | found | changes


def test_records(tmp_path):
    """A record comes back whole, overwrites only itself, leaves no half file, and refuses unlike
    company in one sentence."""
    path = tmp_path/'folder'/'experiment.jsonl'
    assert read_records(path) == []
    with pytest.raises(ValueError, match='no records to draw'): curve([], 'fid')
    for w in (.1, 2.):
        for s in (0, 1, 2): write_record(path, record(w=w, seed=s, fid=w + s))
    write_record(path, record(w=2., seed=2, fid=4.))
    assert len(read_records(path)) == 6 == len(path.read_text().splitlines())
    assert len(read_records(path, w=2.)) == 3
    c = curve(read_records(path), 'fid')
    assert c.x.tolist() == [.1, 2.] and c.mean.tolist() == pytest.approx([1.1, 3.])
    assert c.std.tolist() == [1., 1.] and c.seeds == 3
    one = read_records(path)[0]
    assert one['machine'] and one['commit'] and one['date'].startswith('20')
    for k in records.COMPARABLE:
        with pytest.raises(ValueError, match=f'cannot be compared: {k} is ') as e:
            check_comparable([record(), record(**{k: 'other'})])
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='mix records in which T is 32 and 64'):
        curve([record(), record(T=64)], 'fid')
    with pytest.raises(ValueError, match='fid of the record is nan'):
        write_record(path, record(fid=float('nan')))
    with pytest.raises(ValueError, match="guide_sha256 is 'a' and 'b'"):
        curve([record(w=w, guide_sha256=g) for w, g in [(1., 'a'), (2., 'b')]], 'fid')
    with pytest.raises(ValueError, match='the same w and the same seed'):
        curve([record(), record(fid=2.)], 'fid')
    with pytest.raises(ValueError, match='have no kid'): curve([record(kid=None)], 'kid')
    assert curve(read_records(path, nothing=3) or [record()], 'fid').seeds == 1
    with pytest.raises(OSError, match='could not be written'):
        write_record(path/'below.jsonl', record())
    with pytest.raises(ValueError, match='lacks mix'):
        write_record(path, {k: v for k, v in record().items() if k != 'mix'})
    assert not list(path.parent.glob('*.part')) and len(read_records(path)) == 6
    whole = path.read_text()
    path.write_text(whole + '{"fid"')
    with pytest.raises(ValueError, match='experiment.jsonl, line 7, is no record'):
        read_records(path)
    with pytest.raises(ValueError, match='line 7, is no record'): write_record(path, record(seed=5))
    path.write_text('[1]\n' + whole)
    with pytest.raises(ValueError, match='experiment.jsonl, line 1, lacks everything'):
        read_records(path)


def test_records_of_different_making_never_take_each_others_place(tmp_path):
    path = tmp_path/'experiment.jsonl'
    for change in [{}, {
            'w': 1.
    }, {
            'w': torch.tensor(1.)
    }, {
            'sampler': 'ddim'
    }, {
            'mix': 0.
    }, {
            'n': 50
    }, {
            'dataset': 'b'
    }, {
            'guide_sha256': 'x'
    }, {
            'fid': 3.
    }]:
        write_record(path, record(w=1) | change)
    assert len(read_records(path)) == 6
    assert [
        r['fid'] for r in read_records(path, sampler='ancestral', mix=.3, n=100, dataset='digits')
        if 'guide_sha256' not in r
    ] == [3.]


def test_records_written_at_once(tmp_path):
    """Two processes that write the same records over and over, and a reader, meet no torn file, and
    none is lost."""
    path = tmp_path/'experiment.jsonl'
    code = (
        "import sys; from cfg_lessons import records; records.commit = lambda: 'x'; "
        "sys.path.insert(0, 'tests'); from test_metrics import record\n"
        "for i in range(150): records.write_record(sys.argv[1], record(seed=i % 3 + "
        "3*int(sys.argv[2]), fid=float(i)))"
    )
    jobs = [
        subprocess.Popen(
            [sys.executable, '-c', code, str(path), str(k)], cwd=ROOT, stderr=subprocess.PIPE,
            text=True) for k in range(2)
    ]
    while any(j.poll() is None for j in jobs): read_records(path)
    assert [j.returncode for j in jobs] == [0, 0], jobs[0].stderr.read() + jobs[1].stderr.read()
    assert sorted(
        (r['seed'], r['fid']) for r in read_records(path)) == [(s, 147. + s % 3) for s in range(6)]
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, f'.{path.name}.lock'}


@pytest.mark.parametrize('path', sorted((ROOT/'data'/'results').glob('*.jsonl')),
                         ids=lambda p: p.stem)
def test_stored_records(path):
    """Every stored record can be read, is there once, and names weights that are stored, or how
    long they were trained, and the commit that made it."""
    hashes = {records.sha256(p) for p in (ROOT/'data'/'checkpoints').iterdir()}
    stored = read_records(path)
    assert stored
    check_comparable(stored)
    facts = [
        json.dumps({
            k: v for k, v in r.items() if k not in records.RESULTS
        }, sort_keys=True) for r in stored
    ]
    assert len(set(facts)) == len(facts)
    for r in stored:
        assert r['commit'] != 'unknown' and not r['commit'].endswith('+changes'), r['commit']
        if r['checkpoint_sha256'] is None:
            assert r['steps'] > 0, (
                r)  # its weights are not kept: the same command trains them anew from the seed
        else:
            assert r.get('other_sha256',
                         r['checkpoint_sha256']) in hashes or r['dataset'] != 'digits'
