"Preparing ImageNet with all its oddities and interruptions, and the five commands, on sets made for the purpose."
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
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cfg_lessons import imagenet
from cfg_lessons.checkpoints import open_checkpoint
from cfg_lessons.logs import read_log
from cfg_lessons.images import HUES, KINDS, hues_of, open_images, scenes, to_uint8
from cfg_lessons.imagenet import (RECIPES, area, command, cost, decode, dhariwal, evaluate_samples, extractor_for, found_in,
                                  generate_samples, guided_by, labels_of, levels_of, prepare, reference_for, source_of, train_recipe)
from cfg_lessons.metrics import evaluate, read_cards
from cfg_lessons.sampling import clipped, final, sample, per_example_noise
from cfg_lessons.training import load, save
from cfg_lessons.unet import OPENAI, UNet, UNetClassifier, UNetConfig, openai_levels
from engine_worker import ends, start

SMALL = UNetConfig(side=16, width=32, mults=(1, 2), blocks=1, attention=(8,), head_width=32, num_classes=3)


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
    patched = pytest.MonkeyPatch()
    train = replace(RECIPES['rehearsal'].train, save_every=3, log_every=1)
    patched.setitem(RECIPES, 'small', replace(RECIPES['rehearsal'], config=SMALL, train=train))
    out = tmp_path_factory.mktemp('run')/'run'
    assert train_recipe('small', small_set, out, steps=6, batch_size=8, device='cpu') == 'done'
    yield out
    patched.undo()


def test_crops_do_what_they_always_did():
    """Hashes of the two preparations. guided-diffusion's own function gives the first on these pictures (and agreed on 400 others, from 20 to 700
    pixels wide); that of `area` was taken when it agreed with the means of an enlargement."""
    found = {}
    for f in (dhariwal, area):
        rng = np.random.default_rng(0)
        images = [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in [(500, 375), (90, 333), (64, 64), (50, 40), (129, 128)]]
        made = [f(image, side) for image, side in zip(images, (64, 32, 64, 64, 37))]
        assert [m.shape for m in made] == [(s, s, 3) for s in (64, 32, 64, 64, 37)]
        found[f.__name__] = hashlib.sha256(b''.join(m.tobytes() for m in made)).hexdigest()[:16]
    assert found == {'dhariwal': '9a54e24ca60267de', 'area': '8d79d63e624d033a'}


@pytest.mark.parametrize('old,new', [((60, 47), 20), ((31, 64), 24), ((20, 33), 32)])
def test_area_is_the_mean_of_the_area(old, new):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (old[1], old[0], 3), dtype=np.uint8))
    side, (w, h) = min(old), old
    square = np.asarray(image)[(h - side)//2:(h - side)//2 + side, (w - side)//2:(w - side)//2 + side]
    slow = square.repeat(new, 0).repeat(new, 1).reshape(new, side, new, side, 3).mean((1, 3))
    assert np.abs(area(image, new) - slow).max() <= .5 + 1e-9


def test_archive_and_folder_are_one_set(raw, small_set, tmp_path):
    "Packed or not, by one process or by two, from the folder or from the one above: the same bytes; and in sorted order of classes."
    wanted, y, notes = open_images(small_set)
    for i, (source, workers) in enumerate([(raw/'packed', 1), (raw/'packed'/'ILSVRC2012_img_train.tar', 1), (raw/'unpacked'/'train', 1)]):
        again = prepare(source, tmp_path/str(i), 16, 'area', workers)
        assert again['images_sha256'] == notes['images_sha256'] and again['classes'] == notes['classes'] == ['n10000000', 'n10000037', 'n10000074']
    flat = tmp_path/'flat'
    flat.mkdir()
    for place in found_in(raw/'unpacked'): (flat/place.name).write_bytes(Path(place.path).read_bytes())
    assert prepare(flat, tmp_path/'from flat', 16, 'area', 1)['images_sha256'] == notes['images_sha256']
    assert y.tolist() == sorted(y) and notes['counts'] == [30]*3 and notes['left_out'] == []
    assert (small_set/'files.txt').read_text().split() == [p.name for p in found_in(raw/'unpacked')]


def test_oddities_are_named(raw, small_set):
    "Every kind, and the pictures are what the files say all the same."
    odd = json.loads((small_set/'report.json').read_text())
    assert {k: len(v) for k, v in odd.items()} == {'L colours': 2, 'CMYK colours': 2, 'PNG file': 2, 'asks to be turned': 2, 'damaged notes of a camera': 2}
    assert odd['CMYK colours'] == ['n10000000_1.JPEG', 'n10000037_21.JPEG']
    truth = json.loads((raw/'unpacked'/'truth.json').read_text())
    names, x = (small_set/'files.txt').read_text().split(), np.array(open_images(small_set)[0])
    for i, name in enumerate(names):
        if name in odd['L colours']: assert (x[i] == x[i][:1]).all()
        elif name in [*odd['CMYK colours'], *odd['PNG file']]: assert hues_of(x[i:i + 1]) == [*HUES].index(truth[name]['hue'])


def test_what_cannot_be_read_is_not_dropped_in_silence(raw, tmp_path):
    scenes(tmp_path/'raw', KINDS[:3], 5, truncated=True)
    (tmp_path/'raw'/'train'/'n10000000'/'n10000000_0.JPEG').write_text('<html>404</html>')
    with pytest.raises(ValueError, match=r'2 of 15 pictures cannot be read, such as n10000000_0.JPEG; .*report.json'):
        prepare(tmp_path/'raw', tmp_path/'set', 16, workers=1)
    report = json.loads((tmp_path/'set'/'report.json').read_text())
    assert any('truncated' in what and who == ['n10000037_1.JPEG'] for what, who in report.items())
    with pytest.raises(ValueError, match='never finished'): open_images(tmp_path/'set')
    scenes(tmp_path/'mended', KINDS[:3], 5)
    mended = (tmp_path/'mended'/'train'/'n10000000'/'n10000000_0.JPEG').read_bytes()
    (tmp_path/'raw'/'train'/'n10000000'/'n10000000_0.JPEG').write_bytes(mended)
    notes = prepare(tmp_path/'raw', tmp_path/'set', 16, workers=1, skip_unreadable=True)
    x, y, _ = open_images(tmp_path/'set')
    assert notes['left_out'] == ['n10000037_1.JPEG'] and notes['counts'] == [5, 4, 5] and len(x) == 14 and y.tolist() == [0]*5 + [1]*4 + [2]*5
    whole = prepare(tmp_path/'mended', tmp_path/'whole', 16, workers=1)
    assert (np.delete(open_images(tmp_path/'whole')[0], 6, 0) == x).all() and whole['counts'] == [5]*3
    assert prepare(tmp_path/'raw', tmp_path/'set', 16, workers=1) == notes  # it is finished


def test_prepare_is_killed_and_goes_on(tmp_path):
    "kill -9 ten times, at random moments: nothing is done twice that was done, and the end is the same."
    scenes(tmp_path/'raw', KINDS[:6], 100)
    wanted, rng, killed = prepare(tmp_path/'raw', tmp_path/'straight', 24, workers=1)['images_sha256'], random.Random(0), 0
    for _ in range(40):
        if not (pid := os.fork()):
            code = 1
            try:
                slow = imagenet.CROPS['dhariwal']
                imagenet.CROPS['dhariwal'] = lambda image, size: (time.sleep(.002), slow(image, size))[1]
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
    assert prepare(tmp_path/'raw', tmp_path/'killed', 24, workers=2)['images_sha256'] == wanted  # two processes end it, if need be


def test_a_crash_while_leaving_out(tmp_path, monkeypatch):
    "Killed at any moment after it was decided what to leave out, the set comes out right."
    scenes(tmp_path/'raw', KINDS[:3], 5, truncated=True)
    ways = {}
    for name, place in [('none', None), ('first', 'replace 1'), ('second', 'replace 2'), ('stamp', 'stamp')]:
        out, calls = tmp_path/name, []
        with monkeypatch.context() as m:
            def replace(self, target, before=Path.replace):
                calls.append(1)
                if place == f'replace {len([c for c in calls])}' and self.name.endswith('.kept.npy'): raise KeyboardInterrupt
                if not self.name.endswith('.kept.npy'): calls.pop()
                return before(self, target)
            m.setattr(Path, 'replace', replace)
            if place == 'stamp': m.setattr(imagenet, 'stamp', lambda: 1/0)
            try: prepare(tmp_path/'raw', out, 16, workers=1, skip_unreadable=True)
            except (KeyboardInterrupt, ZeroDivisionError): assert place
            else: assert place is None
        notes = prepare(tmp_path/'raw', out, 16, workers=1, skip_unreadable=True)
        ways[name] = {k: notes[k] for k in ('images_sha256', 'counts', 'left_out', 'odd', 'images')}
    assert len({json.dumps(v) for v in ways.values()}) == 1 and ways['none']['counts'] == [5, 4, 5]


def test_what_lies_around_is_no_picture(raw, small_set, tmp_path):
    "Hidden files, folders of tools, text among pictures, classes that are none, another class under the same file name."
    shutil.copytree(raw/'unpacked'/'train', tmp_path/'a')
    for junk in ('.DS_Store', 'n10000000/._n10000000_1.JPEG', '__MACOSX/x.JPEG', '.thumbs/x.JPEG'):
        (tmp_path/'a'/junk).parent.mkdir(exist_ok=True)
        (tmp_path/'a'/junk).write_bytes(b'junk')
    wanted = open_images(small_set)[2]['images_sha256']
    assert prepare(tmp_path/'a', tmp_path/'out', 16, 'area', 1)['images_sha256'] == wanted
    (tmp_path/'a'/'n10000000'/'README.txt').write_text('not a picture')
    with pytest.raises(ValueError, match='1 of 91 pictures cannot be read, such as n10000000/README.txt'): prepare(tmp_path/'a', tmp_path/'out2', 16, workers=1)
    (tmp_path/'a'/'n10000000'/'README.txt').rename(tmp_path/'a'/'n10000037'/'README.txt')
    with pytest.raises(ValueError, match='names was'): prepare(tmp_path/'a', tmp_path/'out', 16, 'area', 1)
    (tmp_path/'a'/'contact_sheet.png').write_bytes(b'x')
    with pytest.raises(ValueError, match="also 'contact', which is none"): prepare(tmp_path/'a', tmp_path/'out3', 16, workers=1)


def test_damaged_archives(raw, tmp_path):
    whole = (raw/'packed'/'ILSVRC2012_img_train.tar').read_bytes()
    with tarfile.open(raw/'packed'/'ILSVRC2012_img_train.tar') as f: second = f.getmembers()[1]
    for at in (second.offset, second.offset + 700, len(whole)//2):  # the first of them is the end of an inner archive
        (tmp_path/'cut.tar').write_bytes(whole[:at])
        with pytest.raises(ValueError, match='cut short|cannot be read as an archive'): found_in(tmp_path/'cut.tar')
    with tarfile.open(tmp_path/'packed.tar', 'w') as f: f.add(raw/'packed'/'truth.json', 'n10000000.tar.gz')
    with pytest.raises(ValueError, match='n10000000.tar.gz, which is packed'): found_in(tmp_path/'packed.tar')


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
    program.write_text('import sys, time\nfrom cfg_lessons import imagenet\n'
                       'if __name__ == "__main__": imagenet.prepare(sys.argv[1], sys.argv[2], 64, workers=2)\n'
                       'else: imagenet.CROPS["dhariwal"] = lambda image, size: time.sleep(60)\n')
    job = subprocess.Popen([sys.executable, str(program), str(tmp_path/'raw'), str(tmp_path/'out')], stderr=subprocess.DEVNULL)
    def children():
        return [int(p) for p in subprocess.run(['ps', '-o', 'pid=', '--ppid', str(job.pid)], capture_output=True, text=True).stdout.split()]
    start = time.time()
    while len(pids := children()) < 3:  # two workers, and what multiprocessing has to clean up after them
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
    for source, error, words in [('nowhere', FileNotFoundError, 'where is ImageNet'), ('empty', ValueError, 'no pictures that say their class'),
                                 ('text.tar', ValueError, 'archive of archives')]:
        with pytest.raises(error, match=words): prepare(tmp_path/source, tmp_path/'out', 16, workers=1)
    for wrong in (dict(size=0), dict(size=16.), dict(crop='nearest')):
        with pytest.raises(ValueError, match=[*wrong][0]): prepare(raw/'unpacked', tmp_path/'out', **wrong)
    assert not (tmp_path/'out').exists()


def test_train_goes_on_and_refuses_what_differs(small_set, small_run, tmp_path):
    assert [line['step'] for line in read_log(small_run)] == [1, 2, 3, 4, 5, 6]
    assert sorted(p.name for p in (small_run/'samples').iterdir()) == ['step_000000003.png', 'step_000000006.png']
    with pytest.raises(ValueError, match='batch_size was 8 and is 64'): train_recipe('small', small_set, small_run, steps=9, device='cpu')
    with pytest.raises(ValueError, match='off names speed'): train_recipe('small', small_set, tmp_path/'x', off='speed', device='cpu')
    with pytest.raises(ValueError, match='has 3 classes, the recipe is for 8'): train_recipe('rehearsal', small_set, tmp_path/'x', device='cpu')
    with pytest.raises(ValueError, match='size 64'): train_recipe('imagenet64', small_set, tmp_path/'x', device='cpu')
    recipe = open_checkpoint(small_run)[1]['settings']['recipe']
    assert (recipe['name'], recipe['preparation'], recipe['p_uncond']) == ('small', 'area', .1)
    assert recipe['network'] == json.loads(json.dumps(asdict(SMALL)))


def test_generate_and_evaluate(small_set, small_run, tmp_path):
    "Several weights; resumed; other wishes refused; a card for each, which says how it was made."
    generate = partial(generate_samples, small_run, tmp_path/'samples', images=72, steps=4, batch_size=36, device='cpu')
    folders = generate(w='0,2')
    first = [(f/'images.npy').read_bytes() for f in folders]
    assert generate(w='0,2') == folders and [(f/'images.npy').read_bytes() for f in folders] == first and first[0] != first[1]
    for wrong, words in [(dict(w='2', steps=5), 'T was 4 and is 5'), (dict(w='a'), 'give different numbers'), (dict(w='0,nan'), 'give different'), (dict(w='1,1.0'), 'give different'), (dict(sampler='euler'), 'choose ancestral'), (dict(steps=1), 'steps is 1'), (dict(images=0), 'images is 0'), (dict(mix=2.), 'mix is 2'), (dict(device='cdua'), 'device is'),
                         (dict(batch_size=-1), 'batch_size is -1')]:
        with pytest.raises(ValueError, match=words): generate(**wrong)
    paths = evaluate_samples(tmp_path/'samples', small_set, tmp_path/'cards', splits=1, device='cpu')
    cards = read_cards(tmp_path/'cards')
    assert len(paths) == len(cards) == 2
    facts = dict(w=2., T=4, mix=.3, sampler='ancestral', guidance='classifier-free', p_uncond=.1, dataset='small', n=72, preparation='area, 16 pixels', extractor='own-features', trained_on='area')
    assert facts.items() <= next(c for c in cards if c['w'] == 2).items()
    again = evaluate_samples(tmp_path/'samples', small_set, tmp_path/'again', splits=1, device='cpu')
    assert [c['fid'] for c in read_cards(tmp_path/'again')] == [c['fid'] for c in cards] and len(again) == 2
    with pytest.raises(ValueError, match='generate samples first'): evaluate_samples(tmp_path, small_set, device='cpu')


def test_fid_while_training(small_set, small_run, tmp_path):
    "At each checkpoint; it is the FID that `evaluate` finds for the same pictures, also of two ranks and sharded."
    train_recipe('small', small_set, tmp_path, steps=6, batch_size=8, fid_images=72, device='cpu')
    found = [line['fid'] for line in read_log(tmp_path, 'save')]
    assert len(found) == 2 and found[0] != found[1] and all(0 < f < 1e6 for f in found)
    source = source_of(tmp_path)
    labels, noise = torch.from_numpy(labels_of(72, SMALL.num_classes, 0)), per_example_noise(0, range(72))
    z, levels = noise(torch.empty(72, 3, 16, 16)), levels_of(None, 32)
    z = final(sample(clipped(source.ask), z, labels, levels[:-1]))
    x = to_uint8(final(sample(clipped(source.ask), z, labels, levels[-2:]))).numpy()
    extract = extractor_for('', small_set, 'cpu')
    wanted = evaluate(x, reference_for(small_set, extract), extract, None, 1)['fid']
    assert abs(found[1]/wanted - 1) < .02
    for fsdp in (False, True):
        folder = tmp_path/f'two{fsdp}'
        rest = dict(steps=6, batch_size=8, fid_images=72, device='cpu', fsdp=fsdp)
        assert ends(start(2, train_recipe, 'small', small_set, folder, **rest)) == [0, 0]
        assert [line['fid'] for line in read_log(folder, 'save')] == pytest.approx(found, rel=1e-3)


def test_postscript_is_not_run():
    "An EPS under the name of a photograph would start Ghostscript; it is no picture here."
    data = io.BytesIO()
    Image.new('RGB', (20, 20)).save(data, 'eps')
    with pytest.raises(ValueError, match='no picture in it'): decode(data.getvalue())


def test_commands_in_two_processes(tmp_path):
    "torchrun -m cfg_lessons.imagenet: train, refuse, generate; the pictures are those of one process."
    scenes(tmp_path/'raw', KINDS[:8], 8)
    prepare(tmp_path/'raw', tmp_path/'set', 16, 'area', 1)
    def run(*words):
        command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '-m', 'cfg_lessons.imagenet', *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200, env=os.environ | {'OMP_NUM_THREADS': '1'})
    train = ['train', '--recipe', 'rehearsal', '--data', tmp_path/'set', '--out', tmp_path/'run', '--device', 'cpu', '--steps', 4]
    done = run(*train)
    assert done.returncode == 0 and done.stdout.splitlines() == ['done'], done.stderr
    done = run(*train, '--p-uncond', .5)
    assert done.returncode != 0 and done.stderr.count('p_uncond was 0.1 and is 0.5') == 1
    generate = dict(images=16, steps=4, batch_size=4, device='cpu')
    done = run('generate', tmp_path/'run', tmp_path/'two', '--w', 0, '--images', 16, '--steps', 4, '--batch-size', 4, '--device', 'cpu')
    assert done.returncode == 0 and done.stdout.split() == [str(tmp_path/'two'/'w=0')], done.stderr
    alone, = generate_samples(tmp_path/'run', tmp_path/'one', '0', **generate)
    assert (alone/'images.npy').read_bytes() == (tmp_path/'two'/'w=0'/'images.npy').read_bytes()
    done = subprocess.run([sys.executable, '-m', 'cfg_lessons.imagenet', 'paint'], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('Say which: prepare, train')


def test_openais_files(monkeypatch, tmp_path):
    "Under OpenAI's names, with their variance channels, tables and pairs; at a small size."
    torch.set_num_threads(1)
    shapes = {'64x64_diffusion': (UNet, replace(SMALL, **OPENAI), 'cosine'), '256x256_diffusion': (UNet, replace(SMALL, **OPENAI), 'linear'),
              '256x256_diffusion_uncond': (UNet, replace(SMALL, num_classes=0, **OPENAI), 'linear'), '64x64_classifier': (UNetClassifier, SMALL, 'cosine')}
    for module in ('cfg_lessons.unet', 'cfg_lessons.imagenet'): monkeypatch.setattr(f'{module}.RELEASED', shapes)
    for i, (name, (make, config, _)) in enumerate(shapes.items()):
        torch.manual_seed(i)
        net = make(config)
        for p in net.parameters(): torch.nn.init.normal_(p, std=.05)
        save(tmp_path/f'{name}.pt', net)
    ways = {'plain': dict(net='64x64_diffusion', w='0'), 'classifier': dict(net='64x64_diffusion', w='2', classifier='64x64_classifier'),
            'pair': dict(net='256x256_diffusion', w='2', weak='256x256_diffusion_uncond'), 'first': dict(net='256x256_diffusion', w='0'),
            'uncond': dict(net='256x256_diffusion_uncond', w='0')}
    sets = {}
    for name, how in ways.items():
        how = {k: v if k == 'w' else tmp_path/f'{v}.pt' for k, v in how.items()}
        sets[name], = generate_samples(out=tmp_path/name, images=4, steps=5, batch_size=4, device='cpu', **how)
    bytes_of = {k: (v/'images.npy').read_bytes() for k, v in sets.items()}
    assert len(set(bytes_of.values())) == 5  # the classifier and the weak network are really asked
    assert json.loads((sets['pair']/'notes.json').read_text())['made']['weak']
    assert (open_images(sets['classifier'])[1] >= 0).all() and np.load(sets['uncond']/'labels.npy').tolist() == [-1]*4
    with pytest.raises(ValueError, match='not trained with dropped labels'):
        generate_samples(tmp_path/'64x64_diffusion.pt', tmp_path/'x', '1', 4, 5, device='cpu')
    for how, words in [(dict(net='64x64_classifier', w='0'), 'is no UNet'), (dict(net='64x64_diffusion', w='1', classifier='64x64_diffusion'), 'is no UNetClassifier'),
                       (dict(net='64x64_diffusion', w='1', weak='256x256_diffusion_uncond'), 'know different noise levels'),
                       (dict(net='64x64_diffusion', w='1', weak='64x64_diffusion', classifier='64x64_classifier'), 'not by both')]:
        how = {k: v if k == 'w' else tmp_path/f'{v}.pt' for k, v in how.items()}
        with pytest.raises(ValueError, match=words): generate_samples(out=tmp_path/'x', images=4, steps=5, device='cpu', **how)
    for sampler in ('heun', 'ddim'):
        made, = generate_samples(tmp_path/'64x64_diffusion.pt', tmp_path/sampler, '0', 4, 5, sampler=sampler, batch_size=4, device='cpu')
        assert open_images(made)[0].std() > 1
    source, z = source_of(tmp_path/'256x256_diffusion.pt'), torch.randn(2, 3, 16, 16)
    one = guided_by(source, 1.5, source_of(tmp_path/'256x256_diffusion_uncond.pt'))
    told = torch.tensor([0., 1.]), torch.tensor([1, 2])
    with torch.no_grad():
        strong, weak = (imagenet.released(name) for name in ('256x256_diffusion', '256x256_diffusion_uncond'))
        for name, net in (('256x256_diffusion', strong), ('256x256_diffusion_uncond', weak)): load(tmp_path/f'{name}.pt', net)
        strong = strong.eval()(z, *told)[:, :3]
        weak = weak.eval()(z, told[0], torch.tensor([-1, -1]))[:, :3]
        torch.testing.assert_close(one(z, *told), 2.5*strong - 1.5*weak)


def test_levels():
    "The paper's: both ends of its range, T of them, then the picture. OpenAI's: the steps that guided-diffusion takes for T = 250."
    ours, theirs = levels_of(None, 256), levels_of(openai_levels('linear'), 250)
    assert len(ours) == 257 and torch.allclose(ours[[0, 1, -2]], torch.tensor([-20., -10.17, 20.], dtype=torch.float64), atol=.01) and ours[-1] == float('inf')
    spaced = sorted({round(i*999/249) for i in range(250)}, reverse=True)
    assert np.allclose(theirs[:-1], openai_levels('linear')[spaced]) and (theirs.diff() > 0).all()
    labels = labels_of(5000, 1000, 0)
    assert np.bincount(labels).tolist() == [5]*1000 and (labels[:1000] != np.arange(1000)).any()


def test_the_bill():
    "What multiplication must give: PAPER's figures of compute, and nothing for free."
    bill = cost('imagenet64', 'V100', 1, 74.1*3*2.193e11/125e12)
    assert abs(bill['images_per_second'] - 74.1) < .2 and abs(bill['card_hours']/24 - 128) < 1
    twice = cost('imagenet64', 'H100', 16)
    once = cost('imagenet64', 'H100', 8)
    assert twice['days']*2 == pytest.approx(once['days']) and twice['money'] == pytest.approx(once['money'])
    for wrong, words in [(dict(recipe='imagenet32'), 'there are imagenet64'), (dict(card='H1'), 'known are'), (dict(cards=0), 'make no bill'), (dict(busy=0), 'make no bill')]:
        with pytest.raises(ValueError, match=words): cost(**wrong)


@pytest.mark.parametrize('f', [*imagenet.NAMES], ids=[*imagenet.NAMES.values()])
def test_commands_explain_themselves(f, capsys):
    "--help names every option and what it means; a wrong word is refused."
    with pytest.raises(SystemExit) as left: command(f, ['--help'])
    said = capsys.readouterr().out
    assert left.value.code == 0 and f'cfg-{imagenet.NAMES[f]}' in said and 'Raises' not in said
    for name in inspect.signature(f).parameters: assert name.replace('_', '-') in said or name in said
    with pytest.raises(SystemExit) as left: command(f, ['--nonsense', '1'])
    assert left.value.code == 2


def test_commands_say_what_is_wrong(tmp_path, capsys):
    for f, words in [(prepare, ['/nowhere', str(tmp_path/'x')]), (train_recipe, ['--data', str(tmp_path)]), (generate_samples, [str(tmp_path), str(tmp_path/'x')]),
                     (cost, ['--card', 'H1'])]:
        with pytest.raises(SystemExit) as left: command(f, words)
        assert isinstance(left.value.code, str) and '\n' not in left.value.code and len(left.value.code) > 20
    command(cost, ['--recipe', 'rehearsal'])
    assert 'card hours' in capsys.readouterr().out
