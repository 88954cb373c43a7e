"""From photographs to records: sources, preparation, recipes, commands; killed, damaged, misused,
and against other programs."""
import hashlib
import inspect
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from cfg_lessons import beyond, costs, imagenet, preparation, tilting
from cfg_lessons.checkpoints import read_tensors
from cfg_lessons.classifier_free import classifier_free, extrapolate
from cfg_lessons.commands import command
from cfg_lessons.costs import bill
from cfg_lessons.diffusion import cosine
from cfg_lessons.config import TrainConfig
from cfg_lessons.features import extractor_for, reference_of
from cfg_lessons.generation import balanced_labels
from cfg_lessons.images import open_images, to_uint8
from cfg_lessons.imagenet import evaluate_samples, generate_samples, open_network
from cfg_lessons.logs import read_log
from cfg_lessons.evaluation import evaluate
from cfg_lessons.records import curve, read_records
from cfg_lessons.preparation import area, dhariwal, prepare
from cfg_lessons.recipes import RECIPES, Recipe, export_run, open_run, train_recipe
from cfg_lessons.sampling import (ancestral, clipped, ddim, dpmpp_2m, final, heun,
                                  per_example_noise, sample)
from cfg_lessons.sources import decode, find_files
from cfg_lessons.training import load, save
from cfg_lessons.pretrained import OPENAI, openai_levels, released
from cfg_lessons.unet import UNet, UNetClassifier, UNetConfig
from engine_worker import ends, start
from synthetic import HUES, KINDS, hues_of, scenes

ROOT = Path(__file__).resolve().parent.parent
SMALL = UNetConfig(side=16, width=32, mults=(1, 2), blocks=1, attention=(8,), head_width=32,
                   num_classes=3)
RECIPE = Recipe(
    SMALL,
    TrainConfig(6, 8, lr=2e-3, flip=False, warmup_steps=50, ema_decay=(.995,), save_every=3,
                log_every=1), sampler_options=dict(mix=.3), steps=16)


def with_train(**changes): return replace(RECIPE, train=replace(RECIPE.train, **changes))


@pytest.fixture(scope='module')
def raw(tmp_path_factory):
    "Ninety pictures of three classes, unpacked and packed."
    folder = tmp_path_factory.mktemp('raw')
    scenes(folder/'unpacked', KINDS[:3], 30)
    scenes(folder/'packed', KINDS[:3], 30, archive=True)
    return folder


@pytest.fixture(scope='module')
def small_set(raw, tmp_path_factory):
    "The same, prepared at 16 pixels."
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp('set')/'small'
    prepare(raw/'unpacked', out, 16, 'area', workers=1)
    return out


@pytest.fixture(scope='module')
def small_run(small_set, tmp_path_factory):
    "A run of six steps on it."
    out = tmp_path_factory.mktemp('run')/'run'
    assert train_recipe(RECIPE, small_set, out, device='cpu') == 'done'
    return out


def test_crops_do_what_they_always_did():
    """Hashes of the two preparations. guided-diffusion's own function gives the first on these
    pictures (and agreed on 400 others, from 20 to 700 pixels wide); that of `area` was taken when
    it agreed with the means of an enlargement."""
    found = {}
    for f in (dhariwal, area):
        rng = np.random.default_rng(0)
        images = [
            Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8))
            for w, h in [(500, 375), (90, 333), (64, 64), (50, 40), (129, 128)]
        ]
        made = [f(image, side) for image, side in zip(images, (64, 32, 64, 64, 37))]
        assert [m.shape for m in made] == [(s, s, 3) for s in (64, 32, 64, 64, 37)]
        found[f.__name__] = hashlib.sha256(b''.join(m.tobytes() for m in made)).hexdigest()[:16]
    assert found == {'dhariwal': '9a54e24ca60267de', 'area': '8d79d63e624d033a'}


@pytest.mark.parametrize('old,new', [((60, 47), 20), ((31, 64), 24), ((20, 33), 32)])
def test_area_is_the_mean_of_the_area(old, new):
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (old[1], old[0], 3), dtype=np.uint8))
    side, (w, h) = min(old), old
    square = np.asarray(image)[(h - side)//2:(h - side)//2 + side,
                               (w - side)//2:(w - side)//2 + side]
    slow = square.repeat(new, 0).repeat(new, 1).reshape(new, side, new, side, 3).mean((1, 3))
    assert np.abs(area(image, new) - slow).max() <= .5 + 1e-9


def test_archive_and_folder_are_one_set(raw, small_set, tmp_path):
    """Packed or not, by one process or by two, from the folder or from the one above: the same
    bytes; and in sorted order of classes."""
    wanted, y, notes = open_images(small_set)
    for i, (source, workers) in enumerate([(raw/'packed', 1),
                                           (raw/'packed'/'ILSVRC2012_img_train.tar', 1),
                                           (raw/'unpacked'/'train', 1)]):
        again = prepare(source, tmp_path/str(i), 16, 'area', workers=workers)
        assert again['images_sha256'] == notes['images_sha256']
        assert again['classes'] == notes['classes'] == ['n10000000', 'n10000037', 'n10000074']
    flat = tmp_path/'flat'
    flat.mkdir()
    for ref in find_files(raw/'unpacked').refs: (flat/ref.name).write_bytes(ref.read())
    assert prepare(flat, tmp_path/'from flat', 16, 'area',
                   workers=1)['images_sha256'] == notes['images_sha256']
    assert y.tolist() == sorted(y) and notes['counts'] == [30]*3 and notes['left_out'] == []
    assert (small_set/
            'files.txt').read_text().split() == [r.name for r in find_files(raw/'unpacked').refs]


def test_oddities_are_named(raw, small_set):
    "Every kind, and the pictures are what the files say all the same."
    odd = json.loads((small_set/'report.json').read_text())
    assert {
        k: len(v) for k, v in odd.items()
    } == {
        'L colours': 2,
        'CMYK colours': 2,
        'PNG file': 2,
        'asks to be turned': 2,
        'damaged notes of a camera': 2
    }
    assert odd['CMYK colours'] == ['n10000000_1.JPEG', 'n10000037_21.JPEG']
    truth = json.loads((raw/'unpacked'/'truth.json').read_text())
    names, x = (small_set/'files.txt').read_text().split(), np.array(open_images(small_set)[0])
    for i, name in enumerate(names):
        if name in odd['L colours']: assert (x[i] == x[i][:1]).all()
        elif name in [*odd['CMYK colours'], *odd['PNG file']]:
            assert hues_of(x[i:i + 1]) == [*HUES].index(truth[name]['hue'])


def test_what_cannot_be_read_is_not_dropped_in_silence(raw, tmp_path):
    scenes(tmp_path/'raw', KINDS[:3], 5, truncated=True)
    (tmp_path/'raw'/'train'/'n10000000'/'n10000000_0.JPEG').write_text('<html>404</html>')
    with pytest.raises(
            ValueError,
            match=r'2 of 15 pictures cannot be read, such as n10000000_0.JPEG; .*report.json'):
        prepare(tmp_path/'raw', tmp_path/'set', 16, workers=1)
    report = json.loads((tmp_path/'set'/'report.json').read_text())
    assert any('truncated' in what and who == ['n10000037_1.JPEG'] for what, who in report.items())
    with pytest.raises(ValueError, match='never finished'): open_images(tmp_path/'set')
    scenes(tmp_path/'mended', KINDS[:3], 5)
    mended = (tmp_path/'mended'/'train'/'n10000000'/'n10000000_0.JPEG').read_bytes()
    (tmp_path/'raw'/'train'/'n10000000'/'n10000000_0.JPEG').write_bytes(mended)
    notes = prepare(tmp_path/'raw', tmp_path/'set', 16, workers=1, skip_unreadable=True)
    x, y, _ = open_images(tmp_path/'set')
    assert notes['left_out'] == ['n10000037_1.JPEG'] and notes['counts'] == [5, 4, 5]
    assert len(x) == 14 and y.tolist() == [0]*5 + [1]*4 + [2]*5
    whole = prepare(tmp_path/'mended', tmp_path/'whole', 16, workers=1)
    assert (np.delete(open_images(tmp_path/'whole')[0], 6, 0) == x).all()
    assert whole['counts'] == [5]*3
    assert prepare(tmp_path/'raw', tmp_path/'set', 16, workers=1) == notes  # it is finished


def test_prepare_is_killed_and_goes_on(tmp_path):
    """kill -9 ten times, at random moments: nothing is done twice that was done, and the end is the
    same."""
    scenes(tmp_path/'raw', KINDS[:6], 100)
    wanted, rng, killed = prepare(tmp_path/'raw', tmp_path/'straight', 24,
                                  workers=1)['images_sha256'], random.Random(0), 0
    for _ in range(40):
        if not (pid := os.fork()):
            code = 1
            try:
                slow = preparation.CROPS['dhariwal']
                preparation.CROPS['dhariwal'] = lambda image, size: (time.sleep(.002),
                                                                     slow(image, size))[1]
                prepare(tmp_path/'raw', tmp_path/'killed', 24, workers=1)
                code = 0
            finally: os._exit(code)
        time.sleep(rng.uniform(.1, .9))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
    assert killed >= 2
    assert prepare(tmp_path/'raw', tmp_path/'killed', 24,
                   workers=2)['images_sha256'] == wanted  # two processes end it, if need be


def test_a_crash_while_leaving_out(tmp_path, monkeypatch):
    "Killed at any moment after it was decided what to leave out, the set comes out right."
    scenes(tmp_path/'raw', KINDS[:3], 5, truncated=True)
    ways = {}
    for name, place in [('none', None), ('first', 'replace 1'), ('second', 'replace 2'),
                        ('stamp', 'stamp')]:
        out, calls = tmp_path/name, []
        with monkeypatch.context() as m:
            def replace(self, target, before=Path.replace):
                calls.append(1)
                if place == f'replace {len([c for c in calls])}' and self.name.endswith(
                        '.kept.npy'):
                    raise KeyboardInterrupt
                if not self.name.endswith('.kept.npy'): calls.pop()
                return before(self, target)
            m.setattr(Path, 'replace', replace)
            if place == 'stamp': m.setattr(preparation, 'provenance', lambda: 1/0)
            try: prepare(tmp_path/'raw', out, 16, workers=1, skip_unreadable=True)
            except (KeyboardInterrupt, ZeroDivisionError): assert place
            else: assert place is None
        notes = prepare(tmp_path/'raw', out, 16, workers=1, skip_unreadable=True)
        ways[name] = {k: notes[k] for k in ('images_sha256', 'counts', 'left_out', 'odd', 'images')}
    assert len({json.dumps(v) for v in ways.values()}) == 1 and ways['none']['counts'] == [5, 4, 5]


def test_what_lies_around_is_no_picture(raw, small_set, tmp_path):
    """Hidden files, folders of tools, text among pictures, classes that are none, another class
    under the same file name."""
    shutil.copytree(raw/'unpacked'/'train', tmp_path/'a')
    for junk in ('.DS_Store', 'n10000000/._n10000000_1.JPEG', '__MACOSX/x.JPEG', '.thumbs/x.JPEG'):
        (tmp_path/'a'/junk).parent.mkdir(exist_ok=True)
        (tmp_path/'a'/junk).write_bytes(b'junk')
    wanted = open_images(small_set)[2]['images_sha256']
    assert prepare(tmp_path/'a', tmp_path/'out', 16, 'area', workers=1)['images_sha256'] == wanted
    (tmp_path/'a'/'n10000000'/'README.txt').write_text('not a picture')
    with pytest.raises(ValueError,
                       match='1 of 91 pictures cannot be read, such as n10000000/README.txt'):
        prepare(tmp_path/'a', tmp_path/'out2', 16, workers=1)
    (tmp_path/'a'/'n10000000'/'README.txt').rename(tmp_path/'a'/'n10000037'/'README.txt')
    with pytest.raises(ValueError, match='names was'):
        prepare(tmp_path/'a', tmp_path/'out', 16, 'area', workers=1)
    (tmp_path/'a'/'contact_sheet.png').write_bytes(b'x')
    with pytest.raises(ValueError, match="also 'contact', which is none"):
        prepare(tmp_path/'a', tmp_path/'out3', 16, workers=1)


def test_damaged_archives(raw, tmp_path):
    whole = (raw/'packed'/'ILSVRC2012_img_train.tar').read_bytes()
    with tarfile.open(raw/'packed'/'ILSVRC2012_img_train.tar') as f: second = f.getmembers()[1]
    for at in (second.offset, second.offset + 700,
               len(whole)//2):  # the first of them is the end of an inner archive
        (tmp_path/'cut.tar').write_bytes(whole[:at])
        with pytest.raises(ValueError, match='cut short|cannot be read as an archive|empty'):
            find_files(tmp_path/'cut.tar')
    with tarfile.open(tmp_path/'packed.tar', 'w') as f:
        f.add(raw/'packed'/'truth.json', 'n10000000.tar.gz')
    with pytest.raises(ValueError, match='n10000000.tar.gz, which is packed'):
        find_files(tmp_path/'packed.tar')


def test_sixteen_bits(tmp_path):
    "A picture of 16 bits is not cut off at 255."
    grey = np.linspace(0, 65535, 64*64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(grey).save(tmp_path/'x.png')
    image, odd = decode((tmp_path/'x.png').read_bytes())
    assert np.abs(np.asarray(image)[..., 0] - grey/257.).max() <= 1 and odd[0] == 'PNG file'
    with pytest.raises(ValueError, match='no picture in it'): decode(b'hello')


def test_workers_end_with_their_parent(tmp_path):
    "kill -9 of the one that was started leaves nobody behind."
    scenes(tmp_path/'raw', KINDS[:6], 150)
    program = tmp_path/'prepare.py'
    program.write_text(
        'import sys, time\nfrom cfg_lessons import preparation\n'
        'if __name__ == "__main__": preparation.prepare(sys.argv[1], sys.argv[2], 64, workers=2)\n'
        'else: preparation.CROPS["dhariwal"] = lambda image, size: time.sleep(60)\n')
    job = subprocess.Popen(
        [sys.executable, str(program),
         str(tmp_path/'raw'),
         str(tmp_path/'out')], stderr=subprocess.DEVNULL)
    def children():
        return [
            int(p)
            for p in subprocess.run(['ps', '-o', 'pid=', '--ppid',
                                     str(job.pid)], capture_output=True, text=True).stdout.split()
        ]
    start = time.time()
    while len(pids :=
              children()) < 3:  # two workers, and what multiprocessing has to clean up after them
        assert time.time() - start < 60 and job.poll() is None
        time.sleep(.2)
    time.sleep(4)
    job.kill()
    job.wait()
    start = time.time()
    while left := [p for p in pids if Path(f'/proc/{p}').exists()]:
        assert time.time() - start < 20, left
        time.sleep(.2)


def test_bad_sources(raw, tmp_path):
    (tmp_path/'empty').mkdir()
    (tmp_path/'text.tar').write_text('no archive')
    for source, error, words in [('nowhere', FileNotFoundError, 'give a path, module:function'),
                                 ('empty', ValueError, 'no pictures that say their class'),
                                 ('text.tar', ValueError, 'archive of pictures')]:
        with pytest.raises(error, match=words):
            prepare(tmp_path/source, tmp_path/'out', 16, workers=1)
    for wrong in (dict(size=0), dict(size=16.), dict(crop='nearest')):
        with pytest.raises(ValueError, match=[*wrong][0]):
            prepare(raw/'unpacked', tmp_path/'out', **wrong)
    assert not (tmp_path/'out').exists()


def test_train_goes_on_and_refuses_what_differs(small_set, small_run, tmp_path):
    assert [line['step'] for line in read_log(small_run)] == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in (small_run/'samples').iterdir()) == [
        'step_000000003.png', 'step_000000006.png'
    ]
    with pytest.raises(ValueError, match='batch_size was 8 and is 64'):
        train_recipe(with_train(steps=9, batch_size=64), small_set, small_run, device='cpu')
    eight = replace(RECIPE, network=replace(SMALL, num_classes=8))
    with pytest.raises(ValueError, match='has 3 classes, the recipe is for 8'):
        train_recipe(eight, small_set, tmp_path/'x', device='cpu')
    with pytest.raises(ValueError, match='set network.side'):
        train_recipe(RECIPES['imagenet64'], small_set, tmp_path/'x', device='cpu')
    for wrong, words in [(dict(head='x'), 'head is'), (dict(kind='mlp'), 'kind is'),
                         (dict(weight='heavy'), 'weight is'), (dict(p_uncond=2.), 'p_uncond is')]:
        with pytest.raises(ValueError, match=words):
            train_recipe(replace(RECIPE, **wrong), small_set, tmp_path/'x', device='cpu')


def test_a_run_knows_its_recipe_and_can_be_opened_anywhere(small_set, small_run, tmp_path):
    "Moved, renamed, at any kept step; the weights are the average's."
    shutil.copytree(small_run, tmp_path/'moved')
    net, recipe, facts = open_run(tmp_path/'moved')
    assert replace(recipe, train=replace(recipe.train, flops_per_example=0.)) == RECIPE
    assert facts['trained_on'] == 'area' and facts['p_uncond'] == .1
    assert facts['network'] == 'moved, step_000000006'
    path = small_run/'checkpoints'/'step_000000003'
    saved = {k: torch.empty_like(t) for k, t in net.state_dict().items()}
    read_tensors(path, {f'ema_0.995.{k}': t for k, t in saved.items()}, 'ema_0.995.')
    early = open_run(small_run, 3)[0].state_dict()
    assert all(early[k].equal(saved[k]) for k in saved)
    assert not all(early[k].equal(t) for k, t in net.state_dict().items())
    with pytest.raises(ValueError, match='no checkpoint of step 5'): open_run(small_run, 5)
    with pytest.raises(ValueError, match='none of 0.5'): open_run(small_run, decay=.5)


def test_one_file_is_as_good_as_a_run(small_run, tmp_path):
    """cfg-export: the same network, recipe, facts and pictures, byte for byte; what is no such file
    is refused in a sentence."""
    path = tmp_path/'given away.safetensors'
    assert export_run(small_run, path, 3) == path
    (net, recipe, facts), (same, recipe_again, facts_again) = open_run(small_run, 3), open_run(path)
    assert recipe == recipe_again and facts == facts_again
    assert all(
        a.equal(b) for a, b in zip(net.state_dict().values(),
                                   same.state_dict().values(), strict=True))
    make = partial(generate_samples, images=5, steps=3, w=(1.,), device='cpu')
    (a,), (b,) = make(small_run, tmp_path/'a', checkpoint=3), make(path, tmp_path/'b')
    assert (a/'images.npy').read_bytes() == (b/'images.npy').read_bytes()
    with pytest.raises(ValueError, match='holds one network'): open_network(path, step=3)
    with pytest.raises(ValueError, match='must end in .safetensors'):
        export_run(small_run, tmp_path/'net.pt')
    save(tmp_path/'other.safetensors', net)
    (tmp_path/'cut.safetensors').write_bytes(path.read_bytes()[:-100])
    for name in ('other', 'cut'):
        with pytest.raises(ValueError, match='is no file that cfg-export wrote'):
            open_network(tmp_path/f'{name}.safetensors')


def test_sixteen_bits_on_a_cpu(small_run, tmp_path):
    "Close to 32, not the same, as autocast has it, and not to be mixed up with it."
    make = partial(generate_samples, small_run, images=4, steps=3, w=(1.,), device='cpu')
    (a,), (b,) = make(tmp_path/'a'), make(tmp_path/'b', bf16=True)
    x, y = (open_images(f)[0].astype(int) for f in (a, b))
    assert 0 < np.abs(x - y).max() and np.abs(x - y).mean() < 4
    net, noise, label = open_run(small_run)[0], per_example_noise(0, range(4)), torch.from_numpy(
        balanced_labels(4, 3))
    def halved(*args):
        with torch.autocast('cpu', torch.bfloat16): return net(*args).float()
    levels = RECIPE.levels(3)
    guided, run = clipped(classifier_free(halved,
                                          1.)), partial(sample, step=partial(ancestral, mix=.3),
                                                        noise=noise)
    z = final(run(guided, noise(torch.empty(4, 3, 16, 16)), label, levels[:-1]))
    assert np.array_equal(to_uint8(final(sample(guided, z, label, levels[-2:]))).numpy(), y)
    with pytest.raises(ValueError, match='bf16'): make(tmp_path/'a', bf16=True)


def test_another_sets_classifier_measures(small_set, small_run, tmp_path):
    """The features of one set, the reference of another: held-out pictures, and a classifier that
    has not seen them."""
    held_out = prepare_again(small_set, tmp_path)
    x, y, _ = open_images(held_out)
    np.savez(tmp_path/'real.npz', x.transpose(0, 2, 3, 1), y)
    record, = evaluate_samples(tmp_path/'real.npz', held_out, tmp_path/'r.jsonl',
                               features=str(small_set), splits=1, device='cpu')
    assert abs(record['fid_own']) < 1e-6
    assert record['extractor_sha256'] == extractor_for('', small_set, 'cpu').identity[2]
    assert not list(Path(held_out).glob('own_features*'))
    file, = Path(small_set).glob('own_features*')
    alone, = evaluate_samples(tmp_path/'real.npz', held_out, tmp_path/'file.jsonl',
                              features=str(shutil.copy(file, tmp_path/'mine.safetensors')),
                              splits=1, device='cpu')
    assert all(alone[k] == v for k, v in record.items() if k not in ('seconds', 'date'))
    shutil.copy(Path(small_set)/'images.npy', tmp_path/'wrong.safetensors')
    with pytest.raises(ValueError, match='no classifier of a prepared set'):
        evaluate_samples(tmp_path/'real.npz', held_out, features=str(tmp_path/'wrong.safetensors'),
                         device='cpu')


def test_generate_and_evaluate(small_set, small_run, tmp_path, capsys):
    "Several weights; resumed; other wishes refused; a record for each, which says how it was made."
    make = partial(generate_samples, small_run, tmp_path/'samples', images=72, steps=4,
                   batch_size=36, device='cpu')
    folders = make(w=(0., 2.))
    first = [(f/'images.npy').read_bytes() for f in folders]
    assert make(w=(0., 2.)) == folders
    assert [(f/'images.npy').read_bytes() for f in folders] == first and first[0] != first[1]
    for wrong, words in [(dict(w=(2.,), steps=5), 'T was 4 and is 5'),
                         (dict(w=(0., float('nan'))), 'give different'),
                         (dict(w=(1., 1.)), 'give different'),
                         (dict(sampler='euler'), 'choose ddim'), (dict(steps=1), 'steps is 1'),
                         (dict(images=0), 'images is 0'),
                         (dict(sampler_options=dict(eta=1.)), 'no option eta; it has mix'),
                         (dict(guidance='cfg'), 'choose classifier_free'),
                         (dict(guidance='autoguidance'), 'needs a network weak'),
                         (dict(weak=small_run), 'does not take a network weak'),
                         (dict(device='cdua'), 'device is'),
                         (dict(batch_size=-1), 'batch_size is -1')]:
        with pytest.raises(ValueError, match=words): make(**wrong)
    records = evaluate_samples(tmp_path/'samples', small_set, tmp_path/'records.jsonl',
                               features='own', splits=1, device='cpu')
    assert 'mean nothing beside published ones' in capsys.readouterr().err
    facts = dict(w=2., T=4, mix=.3, sampler='ancestral', guidance='classifier_free', p_uncond=.1,
                 dataset='small', n=72, preparation='area, 16 pixels', extractor='own-features',
                 trained_on='area')
    assert len(records) == 2 and facts.items() <= records[1].items() and 'fid_own' in records[1]
    assert 'fid' not in records[1]
    again = evaluate_samples(tmp_path/'samples', small_set, tmp_path/'again.jsonl', features='own',
                             splits=1, device='cpu')
    assert [r['fid_own'] for r in again] == [r['fid_own'] for r in records]
    assert evaluate_samples(tmp_path/'samples', small_set, tmp_path/'records.jsonl', features='own',
                            splits=1, device='cpu') == records
    line = curve(read_records(tmp_path/'records.jsonl'), 'fid_own')
    assert line.x.tolist() == [0., 2.] and line.mean.tolist() == [r['fid_own'] for r in records]
    with pytest.raises(ValueError, match='holds no pictures'):
        evaluate_samples(tmp_path/'none', small_set, device='cpu')
    other = prepare_again(small_set, tmp_path)
    with pytest.raises(ValueError, match="prepared by 'area'"):
        evaluate_samples(tmp_path/'samples', other, device='cpu')


def prepare_again(small_set, tmp_path):
    "The same set as if it had been prepared in the other way."
    shutil.copytree(small_set, tmp_path/'other')
    notes = json.loads((tmp_path/'other'/'notes.json').read_text())
    (tmp_path/'other'/'notes.json').write_text(json.dumps(notes | dict(preparation='dhariwal')))
    return tmp_path/'other'


def test_npz_of_guided_diffusion_goes_out_and_comes_in(small_set, small_run, tmp_path):
    "arr_0 (N, H, W, C) and arr_1, as its evaluator reads them; and as its sampler writes them."
    made, = generate_samples(small_run, tmp_path/'samples', (1.,), 72, steps=4, batch_size=36,
                             npz=True, device='cpu')
    x, y, _ = open_images(made)
    with np.load(made/'samples.npz') as f:
        assert (f['arr_0'] == x.transpose(0, 2, 3, 1)).all() and (f['arr_1'] == y).all()
    own, = evaluate_samples(made, small_set, tmp_path/'a', features='own', splits=1, device='cpu')
    theirs, = evaluate_samples(made/'samples.npz', small_set, tmp_path/'b', features='own',
                               splits=1, device='cpu')
    assert own['fid_own'] == pytest.approx(theirs['fid_own'], rel=1e-5)
    assert theirs['network'] == 'samples'
    np.savez(tmp_path/'samples.npz',
             np.ascontiguousarray(255 -
                                  x[:70].transpose(0, 2, 3, 1)))  # the same name, other pictures
    for pictures, kept in ((made/'samples.npz', theirs), (tmp_path/'samples.npz', None)):
        again, = evaluate_samples(pictures, small_set, tmp_path/'b', features='own', splits=1,
                                  device='cpu')
        assert (again['fid_own'] == theirs['fid_own']) == (kept is theirs)
        assert again['n'] == (72 if kept else 70)


def expected(net, recipe, guided, sampler, n=6, steps=5):
    "What `generate` must make, composed by hand."
    noise, label = per_example_noise(0, range(n)), torch.from_numpy(balanced_labels(n, 3))
    levels = torch.cat([cosine(torch.linspace(1, 0, steps).double()), torch.tensor([float('inf')])])
    z = final(
        sampler(clipped(guided), noise(torch.empty(n, 3, 16, 16)), label, levels[:-1], noise=noise))
    with torch.no_grad():
        return to_uint8(final(sample(clipped(guided), z, label, levels[-2:]))).numpy()


@pytest.mark.parametrize(
    'name, guidance, options, rule',
    [('interval', 'interval', dict(
        low=-4., high=4.), lambda d, weak: beyond.scheduled(d, beyond.interval(2., -4., 4.))),
     ('apg', 'apg', dict(eta=0., momentum=-.5,
                         radius=2.), lambda d, weak: beyond.apg(d, 2., 0., -.5, 2.)),
     ('rescaled', 'rescaled', dict(phi=.5), lambda d, weak: beyond.rescaled(d, 2., .5)),
     ('zero_star', 'zero_star', {}, lambda d, weak: beyond.zero_star(d, 2.)),
     ('autoguidance', 'autoguidance', {}, lambda d, weak: extrapolate(d, weak, 2.)),
     ('perturbed', 'perturbed_attention', {},
      lambda d, weak: extrapolate(d, beyond.perturbed_attention(d), 2.)),
     ('own', 'mine:rule', {}, lambda d, weak: extrapolate(d, weak_of_mine, 2.))])
def test_every_rule_of_the_book_and_ones_own(small_run, tmp_path, monkeypatch, name, guidance,
                                             options, rule):
    "By name from the command's function, and composed by hand: the same bytes."
    monkeypatch.chdir(tmp_path)
    (tmp_path/'mine.py').write_text(
        'from cfg_lessons.classifier_free import extrapolate\n'
        'def rule(denoiser, w): return extrapolate(denoiser, lambda z, logsnr, label: .9*z, w)\n')
    weak = dict(weak=small_run,) if guidance == 'autoguidance' else {}
    made, = generate_samples(small_run, tmp_path/'out', (2.,), 6, guidance, options, **weak,
                             sampler='ddim', steps=5, batch_size=6, device='cpu')
    net, recipe, _ = open_run(small_run)
    assert (open_images(made)[0] == expected(net, recipe, rule(net, net), sample)).all()


def weak_of_mine(z, logsnr, label): return .9*z


@pytest.mark.parametrize('name, options, sampler', [
    ('ancestral', dict(mix=.7), partial(sample, step=partial(ancestral, mix=.7))),
    ('heun', {}, partial(sample, step=heun)), ('dpmpp_2m', {}, dpmpp_2m),
    ('predictor_corrector', dict(repeats=2, size=.2), None),
    ('cfg_plus_plus', dict(kappa=.4), partial(sample, step=partial(beyond.cfg_plus_plus, kappa=.4)))
])
def test_every_sampler_of_the_book(small_run, tmp_path, name, options, sampler):
    made, = generate_samples(small_run, tmp_path/'out', (0.,), 6, sampler=name,
                             sampler_options=options, steps=5, batch_size=6, device='cpu')
    net, recipe, _ = open_run(small_run)
    if sampler is None:
        sampler = partial(sample, step=tilting.predictor_corrector(ddim, clipped(net), 2, .2))
    assert (open_images(made)[0] == expected(net, recipe, net, sampler)).all()


def test_fid_while_training(small_set, small_run, tmp_path):
    """At each checkpoint; it is the FID that `evaluate` finds for the same pictures, also of two
    ranks and sharded."""
    train_recipe(RECIPE, small_set, tmp_path, fid_images=72, device='cpu')
    found = [line['fid'] for line in read_log(tmp_path, 'save')]
    assert len(found) == 2 and found[0] != found[1] and all(0 < f < 1e6 for f in found)
    net = open_run(tmp_path)[0]
    labels, noise = torch.from_numpy(balanced_labels(72, SMALL.num_classes)), per_example_noise(
        0, range(72))
    z, levels = noise(torch.empty(72, 3, 16, 16)), RECIPE.levels(32)
    with torch.no_grad():
        z = final(sample(clipped(net), z, labels, levels[:-1]))
        x = to_uint8(final(sample(clipped(net), z, labels, levels[-2:]))).numpy()
    extract = extractor_for('', small_set, 'cpu')
    wanted = evaluate(x, reference_of(small_set, extract), extract, None, 1)['fid']
    assert abs(found[1]/wanted - 1) < .02
    for fsdp in (False, True):
        folder = tmp_path/f'two{fsdp}'
        assert ends(
            start(2, train_recipe, with_train(fsdp=fsdp), small_set, folder, fid_images=72,
                  device='cpu')) == [0, 0]
        assert [line['fid'] for line in read_log(folder, 'save')] == pytest.approx(found, rel=1e-3)


def test_postscript_is_not_run():
    "An EPS under the name of a photograph would start Ghostscript; it is no picture here."
    data = io.BytesIO()
    Image.new('RGB', (20, 20)).save(data, 'eps')
    with pytest.raises(ValueError, match='no picture in it'): decode(data.getvalue())


def test_commands_in_two_processes(small_set, tmp_path):
    """torchrun -m cfg_lessons.imagenet with a recipe in a file: train, refuse, generate; the
    pictures are those of one process."""
    (tmp_path/'mine.toml').write_text(
        'recipe = "digits"\n[network]\nside = 16\nchannels = 3\nnum-classes = 3\nattention = '
        '[8]\n[train]\nsteps = 4\n'
    )
    def run(*words):
        command = [
            sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
            '-m', 'cfg_lessons.imagenet', *map(str, words)
        ]
        return subprocess.run(command, capture_output=True, text=True, timeout=200,
                              env=os.environ | {'OMP_NUM_THREADS': '1'})

    train = [
        'train', '--config', tmp_path/'mine.toml', '--data', small_set, '--out', tmp_path/'run',
        '--device', 'cpu'
    ]
    done = run(*train)
    assert done.returncode == 0 and done.stdout.splitlines() == ['done'], done.stderr
    done = run(*train, '--p-uncond', .5)
    assert done.returncode != 0 and done.stderr.count('p_uncond was 0.1 and is 0.5') == 1
    generate = dict(images=16, steps=4, batch_size=4, device='cpu')
    done = run('generate', '--network', tmp_path/'run', '--out', tmp_path/'two', '--w', 0,
               '--images', 16, '--steps', 4, '--batch-size', 4, '--device', 'cpu')
    assert done.returncode == 0 and done.stdout.split() == [str(tmp_path/'two'/'w=0')], done.stderr
    alone, = generate_samples(tmp_path/'run', tmp_path/'one', (0.,), **generate)
    assert (alone/'images.npy').read_bytes() == (tmp_path/'two'/'w=0'/'images.npy').read_bytes()
    done = subprocess.run([sys.executable, '-m', 'cfg_lessons.imagenet', 'paint'],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('Say which: prepare, train')


def test_openais_files(monkeypatch, tmp_path):
    "Under OpenAI's names, with their variance channels, tables and pairs; at a small size."
    torch.set_num_threads(1)
    shapes = {
        '64x64_diffusion': (UNet, replace(SMALL, **OPENAI), 'cosine'),
        '256x256_diffusion': (UNet, replace(SMALL, **OPENAI), 'linear'),
        '256x256_diffusion_uncond': (UNet, replace(SMALL, num_classes=0, **OPENAI), 'linear'),
        '64x64_classifier': (UNetClassifier, SMALL, 'cosine')
    }
    for module in ('cfg_lessons.pretrained', 'cfg_lessons.imagenet'):
        monkeypatch.setattr(f'{module}.RELEASED', shapes)
    for i, (name, (make, config, _)) in enumerate(shapes.items()):
        torch.manual_seed(i)
        net = make(config)
        for p in net.parameters(): torch.nn.init.normal_(p, std=.05)
        save(tmp_path/f'{name}.pt', net)
    file = lambda name: str(tmp_path/f'{name}.pt')
    one, other, free, judge = map(file, shapes)
    ways = {
        'plain': dict(network=one),
        'classifier': dict(network=one, w=(2.,), guidance='classifier', classifier=judge),
        'pair': dict(network=other, w=(2.,), guidance='autoguidance', weak=free),
        'first': dict(network=other),
        'uncond': dict(network=free)
    }
    make = partial(generate_samples, images=4, steps=5, batch_size=4, device='cpu')
    sets = {name: make(out=tmp_path/name, **how)[0] for name, how in ways.items()}
    bytes_of = {k: (v/'images.npy').read_bytes() for k, v in sets.items()}
    assert len(set(bytes_of.values())) == 5  # the classifier and the weak network are really asked
    assert json.loads((sets['pair']/'notes.json').read_text())['made']['weak']
    assert (open_images(sets['classifier'])[1] >= 0).all()
    assert np.load(sets['uncond']/'labels.npy').tolist() == [-1]*4
    for how, words in [(dict(network=one, w=(1.,)), 'not trained with dropped labels'),
                       (dict(network=judge), 'is a classifier'),
                       (dict(network=one, w=(1.,), guidance='classifier',
                             classifier=one), 'is no classifier'),
                       (dict(network=one, w=(1.,), guidance='autoguidance',
                             weak=free), 'know different noise levels'),
                       (dict(network=one, w=(1.,), guidance='autoguidance', weak=other,
                             classifier=judge), 'noise levels|does not take')]:
        with pytest.raises(ValueError, match=words): make(out=tmp_path/'x', **how)
    for sampler in ('heun', 'ddim'):
        assert open_images(make(one, tmp_path/sampler, sampler=sampler)[0])[0].std() > 1
    z, conditions = torch.randn(2, 3, 16, 16), (torch.tensor([0., 1.]), torch.tensor([1, 2]))
    guided = extrapolate(open_network(other)[0].denoiser, open_network(free)[0].denoiser, 1.5)
    with torch.no_grad():
        strong, weak = (released(name)
                        for name in ('256x256_diffusion', '256x256_diffusion_uncond'))
        for path, net in ((other, strong), (free, weak)): load(path, net)
        strong = strong.eval()(z, *conditions)[:, :3]
        weak = weak.eval()(z, conditions[0], torch.tensor([-1, -1]))[:, :3]
        torch.testing.assert_close(guided(z, *conditions), 2.5*strong - 1.5*weak)
    theirs, spaced = open_network(other)[0].levels(250), sorted(
        {round(i*999/249) for i in range(250)}, reverse=True)
    assert np.allclose(theirs[:-1], openai_levels('linear')[spaced])
    assert (theirs.diff() > 0).all()  # the steps that guided-diffusion takes for T = 250


def test_what_guided_diffusion_trained(monkeypatch, tmp_path):
    """Its ema_*.pt is known by its arrays, runs no code, and makes the pictures that it makes under
    OpenAI's name; other files are refused."""
    torch.set_num_threads(1)
    shapes = {
        '64x64_diffusion': (UNet, replace(SMALL, **OPENAI), 'cosine'),
        '64x64_classifier': (UNetClassifier, SMALL, 'cosine')
    }
    for module in ('cfg_lessons.pretrained', 'cfg_lessons.imagenet'):
        monkeypatch.setattr(f'{module}.RELEASED', shapes)
    torch.manual_seed(0)
    net = UNet(replace(SMALL, **OPENAI))
    for p in net.parameters(): torch.nn.init.normal_(p, std=.05)
    save(tmp_path/'64x64_diffusion.pt', net)
    shutil.copy(tmp_path/'64x64_diffusion.pt', tmp_path/'ema_0.9999_000010.pt')
    save(tmp_path/'model000010.pt', UNetClassifier(SMALL))
    make = partial(generate_samples, images=3, steps=4, device='cpu')
    theirs, ours = (make(tmp_path/f'{name}.pt', tmp_path/name)[0]
                    for name in ('64x64_diffusion', 'ema_0.9999_000010'))
    assert (theirs/'images.npy').read_bytes() == (ours/'images.npy').read_bytes()
    made = open_images(ours)[2]['made']
    assert made['network'] == 'ema_0.9999_000010' and made['trained_on'] == 'dhariwal'
    assert made['checkpoint_sha256'] == open_images(theirs)[2]['made']['checkpoint_sha256']
    assert open_network(tmp_path/'model000010.pt', classifier=True)[0].num_classes == 3
    with pytest.raises(ValueError, match='is a classifier'): open_network(tmp_path/'model000010.pt')
    class Program:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'was_run'),)
    torch.save(Program(), tmp_path/'ema_0.9999_000020.pt')
    torch.save([1], tmp_path/'opt000010.pt')
    save(tmp_path/'other.pt', UNet(SMALL))
    (tmp_path/'torn.pt').write_bytes((tmp_path/'64x64_diffusion.pt').read_bytes()[:5000])
    for name, words in [('ema_0.9999_000020', 'cannot be opened safely'),
                        ('torn', 'cannot be opened safely'), ('opt000010', 'none of OpenAI'),
                        ('other', 'none of OpenAI')]:
        with pytest.raises(ValueError, match=words) as e: open_network(tmp_path/f'{name}.pt')
        assert '\n' not in str(e.value)
    assert not (tmp_path/'was_run').exists()


def test_blinded_attention_is_made_once(small_run, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(imagenet, 'perturbed_attention',
                        lambda net: made.append(1) or beyond.perturbed_attention(net))
    generate_samples(small_run, tmp_path/'out', (1., 2.), 6, 'perturbed_attention', sampler='ddim',
                     steps=2, batch_size=2, device='cpu')
    assert made == [1]


def test_levels():
    "The paper's: both ends of its range, T of them, then the picture."
    ours = RECIPES['imagenet64'].levels(256)
    assert len(ours) == 257
    assert torch.allclose(ours[[0, 1, -2]], torch.tensor([-20., -10.17, 20.], dtype=torch.float64),
                          atol=.01)
    assert ours[-1] == float('inf')
    labels = balanced_labels(5000, 1000)
    assert np.bincount(labels).tolist() == [5]*1000 and (labels[:1000] != np.arange(1000)).any()


def test_the_bill():
    "What multiplication must give: PAPER's figures of compute, and nothing for free."
    recipe = RECIPES['imagenet64']
    found = bill(recipe, 'V100', 1, 74.1*3*2.193e11/125e12)
    assert abs(found['images_per_second'] - 74.1) < .2 and abs(found['gpu_hours']/24 - 128) < 1
    twice, once = bill(recipe, 'H100', 16), bill(recipe, 'H100', 8)
    assert once['flops'] == pytest.approx(5.4e20, rel=.02)
    assert bill(RECIPES['imagenet128'])['flops'] == pytest.approx(1.3e21, rel=.03)
    assert twice['days']*2 == pytest.approx(once['days'])
    assert twice['money'] == pytest.approx(once['money'])
    assert bill(recipe, tflops=989/2)['days'] == pytest.approx(2*once['days'])
    assert bill(recipe,
                memory=400)['memory_cached_data_gigabytes'] == pytest.approx(1281167*3*64**2/1e9)
    assert bill(recipe, memory=45)['memory_cached_data_gigabytes'] == 0
    assert once['preparation_hours'] == pytest.approx(1281167*.01/32/3600)
    assert bill(recipe, core_seconds=.02,
                cores=64)['preparation_hours'] == pytest.approx(once['preparation_hours'])
    assert once['reference_gpu_hours']/1281167 == pytest.approx(
        once['evaluation_gpu_hours']/50_000) == pytest.approx(16*1.14e10/(.4*989e12)/3600)
    half = bill(recipe, mfu=.2)
    assert all(half[k] == pytest.approx(2*once[k]) for k in once if k.endswith('gpu_hours'))
    assert half['preparation_hours'] == once['preparation_hours']
    for wrong, words in [(dict(gpu='H1'), 'known are'), (dict(gpus=0), 'make no bill'),
                         (dict(mfu=0), 'make no bill'), (dict(cores=0), 'make no bill'),
                         (dict(core_seconds=-1.), 'make no bill')]:
        with pytest.raises(ValueError, match=words): bill(recipe, **wrong)


def test_the_papers_tables():
    """Every cell is there, and the figures of the text: the least FID, the greatest score, where
    128 steps join the others."""
    import csv
    for name, group, groups, fid, score in [
        ('cfg_table1_imagenet64', 'p_uncond', {'0.1', '0.2', '0.5'}, 1.55, 260.2),
        ('cfg_table2_imagenet128', 'T', {'128', '256', '1024'}, 2.43, 422.29)
    ]:
        rows = [
            r for r in csv.DictReader((ROOT/'data'/'reference'/f'{name}.csv').open())
            if r['model'] == 'CFG'
        ]
        assert {r[group] for r in rows} == groups
        assert all(sum(r[group] == g for r in rows) == 14 for g in groups)
        assert min(float(r['fid']) for r in rows) == fid
        assert max(float(r['is']) for r in rows) == score


def test_inceptions_flops():
    "The bill's figure is counted on torch-fidelity's own network."
    from torch.utils.flop_counter import FlopCounterMode
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Net
    with patch(
            'torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url'), patch.object(
                Net, 'load_state_dict'):
        net = Net('inception-v3-compat', ['2048', 'logits_unbiased'])
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert counter.get_total_flops() == pytest.approx(costs._INCEPTION, rel=.01)


def test_ones_own_networks_are_known_by_what_they_take(small_set, tmp_path, monkeypatch):
    """A classifier of one's own takes no label: its loss, its bill and its memory are a
    classifier's; a denoiser of one's own remains one."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path/'mine_too.py').write_text(
        'from cfg_lessons.unet import UNet, UNetClassifier\n'
        'def judge(config): return UNetClassifier(config)\ndef draw(config): return UNet(config)\n')
    judge, draw = (replace(RECIPE, kind=f'mine_too:{name}') for name in ('judge', 'draw'))
    assert judge.classifies() and not draw.classifies() and RECIPES['classifier64'].classifies()
    assert not RECIPES['imagenet64'].classifies()
    assert bill(judge)['sampling_gpu_hours'] == 0 < bill(draw)['sampling_gpu_hours']
    for own, named in ((judge, replace(RECIPE, kind='classifier')), (draw, RECIPE)):
        assert costs.training_memory(own, own.train) == costs.training_memory(named, named.train)
    assert train_recipe(replace(judge, train=replace(RECIPE.train, steps=2)), small_set,
                        tmp_path/'run', device='cpu') == 'done'
    assert not (tmp_path/'run'/'samples').exists()
    assert open_network(tmp_path/'run', classifier=True)[0].num_classes == 3


@pytest.mark.parametrize('name, f', imagenet.COMMANDS.items(), ids=[*imagenet.COMMANDS])
def test_commands_explain_themselves(name, f, capsys):
    "--help names every option and what it means; a wrong word is refused."
    first = ['digits'] if name in ('train', 'cost') else []
    with pytest.raises(SystemExit) as left: command(f, [*first, '--help'], f'cfg-{name}')
    said = capsys.readouterr().out
    assert left.value.code == 0 and f'cfg-{name}' in said and 'Raises' not in said
    for option in inspect.signature(f).parameters:
        assert option == 'recipe' or f'--{option.replace("_", "-")}' in said
    if first: assert '--network.width' in said and '--train.lr' in said
    with pytest.raises(SystemExit) as left: command(f, [*first, '--nonsense', '1'])
    assert left.value.code == 2


def test_commands_say_what_is_wrong(small_set, tmp_path, capsys):
    (tmp_path/'bad.toml').write_text('steps = = 3')
    x = str(tmp_path/'x')
    for f, words in [(prepare, ['--source', '/nowhere', '--out', x]),
                     (train_recipe, ['digits', '--data',
                                     str(tmp_path), '--out', x]),
                     (train_recipe, ['digit', '--data', 'a', '--out', x]),
                     (generate_samples, ['--network', str(tmp_path), '--out', x]),
                     (generate_samples, ['--network', '', '--out', x]),
                     (bill, ['digits', '--gpu', 'H1']),
                     (train_recipe, ['--config', str(tmp_path/'bad.toml')]),
                     (train_recipe, ['--config']),
                     (evaluate_samples, ['--samples', x, '--data',
                                         str(small_set)])]:
        with pytest.raises(SystemExit) as left: command(f, words)
        assert isinstance(left.value.code, str) and '\n' not in left.value.code and len(
            left.value.code) > 20, words
    command(bill, ['digits', '--network.num-classes', '5', '--train.steps', '100'])
    said = capsys.readouterr().out
    assert 'gpu hours' in said and 'assumptions' in said


def test_a_set_is_not_needed_beside_a_reference(small_set, small_run, tmp_path, monkeypatch):
    """Pictures are measured against OpenAI's statistics alone where Inception's weights are named;
    else one sentence."""
    samples = generate_samples(small_run, tmp_path/'s', images=72, steps=2, device='cpu')
    for how in (dict(), dict(reference='a.npz'), dict(features=str(small_set))):
        with pytest.raises(ValueError, match='give Inception weights and a --reference'):
            evaluate_samples(tmp_path/'s', device='cpu', **how)
    extract = extractor_for('', small_set, 'cpu')
    monkeypatch.setattr(imagenet, 'extractor_for', lambda *_: extract)
    seen = reference_of(small_set, extract)
    np.savez(tmp_path/'stats.npz', mu=seen.mean, sigma=seen.cov)
    record, = evaluate_samples(tmp_path/'s', features='inception.pth',
                               reference=str(tmp_path/'stats.npz'), results=tmp_path/'r.jsonl',
                               splits=1, device='cpu')
    with_set, = evaluate_samples(tmp_path/'s', small_set, features='inception.pth',
                                 results=tmp_path/'q.jsonl', splits=1, device='cpu')
    assert record['dataset'] == 'stats' and abs(record['fid']/with_set['fid'] - 1) < 1e-9
    assert record['recall'] is None and len(samples) == 1
