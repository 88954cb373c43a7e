"Fifty thousand pictures, in miniature: shared, killed, damaged, and the same in the end."
import json
import os
import random
import resource
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_worker import ends, start

from cfg_lessons.classifier_free import classifier_free
from cfg_lessons.diffusion import cosine
from cfg_lessons import generation
from cfg_lessons.generation import generate_from
from cfg_lessons.images import open_images
from cfg_lessons.sampling import ancestral, clipped, ddim, heun, final, sample
from cfg_lessons.training import load
from cfg_lessons.unet import DIGITS, UNet

ROOT = Path(__file__).resolve().parent.parent
LABELS, SHAPE, MADE = np.arange(40) % 10, (1, 8, 8), dict(w=.5, steps=8)
torch.set_num_threads(1)


def draw(noise, label):
    "Nothing but noise, and a little time."
    time.sleep(.005)
    return noise(torch.empty(len(label), *SHAPE)).clamp(-1, 1) + .01*label[:, None, None, None]


def shared(folder, ranks, batch_size=4, f=draw):
    "What process RANK of some makes; they do not speak."
    def one(rank):
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks))
        generate_from(folder, f, LABELS, SHAPE, MADE, batch_size=batch_size)
    return [pid for rank in range(ranks) for pid in start(1, one, rank)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    generate_from(folder, draw, LABELS, SHAPE, MADE, batch_size=7)
    return open_images(folder)[0]


@pytest.mark.parametrize('step', [ddim, heun, partial(ancestral, mix=.3)],
                         ids=['ddim', 'heun', 'ancestral'])
@pytest.mark.parametrize('w', [0., 2.])
def test_a_picture_does_not_depend_on_its_batch(tmp_path, step, w):
    "With the stored network and eight steps from log-SNR -20; a sum taken otherwise may round up."
    net = UNet(DIGITS).eval()
    load(ROOT/'data'/'checkpoints'/'digits.safetensors', net)
    def f(noise, label):
        z, levels = noise(torch.empty(len(label), *SHAPE)), cosine(torch.linspace(1, 0, 9))
        return final(sample(clipped(classifier_free(net, w)), z, label, levels, step, noise))
    for size in (1, 13):
        generate_from(tmp_path/str(size), f, LABELS[:13], SHAPE, MADE, batch_size=size)
    one, many = (np.int64(open_images(tmp_path/str(size))[0]) for size in (1, 13))
    assert abs(one - many).max() <= 1 and (one != many).mean() < .01
    assert len({picture.tobytes() for picture in one}) == 13


@pytest.mark.parametrize('ranks, batch_size', [(1, 3), (3, 4), (3, 40), (2, 1)])
def test_shared_by_processes_that_do_not_speak(whole, tmp_path, ranks, batch_size):
    assert ends(shared(tmp_path, ranks, batch_size)) == [0]*ranks
    x, y, notes = open_images(tmp_path)
    assert (x == whole).all() and (y == LABELS).all() and notes['made'] == MADE
    assert not (tmp_path/'parts').exists()


def test_killed_at_random_moments(whole, tmp_path):
    "Three processes are killed, and called again with other batches, until all is there."
    moment = random.Random(1)
    def slow(noise, label): return time.sleep(.03) or draw(noise, label)
    for attempt in range(40):
        pids = shared(tmp_path, 3, moment.choice((2, 3, 5)), slow)
        time.sleep(moment.uniform(0, .1))
        for pid in pids: os.kill(pid, signal.SIGKILL)
        ends(pids)
        if (tmp_path/'notes.json').exists(): break
    generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
    assert attempt > 1 and (open_images(tmp_path)[0] == whole).all()


def killed_at(n, folder):
    calls = []
    for name in ('replace', 'fsync', 'unlink', 'mkdir', 'rmdir', 'link'):
        def call(*args, real=getattr(os, name), **kwargs):
            calls.append(1)
            if len(calls) == n: os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        setattr(os, name, call)
    generate_from(folder, draw, LABELS, SHAPE, MADE, batch_size=14)


def test_killed_before_each_file_operation(whole, tmp_path):
    for n in range(1, 200):
        code, = ends(start(1, killed_at, n, tmp_path/str(n)))
        if code == 0: break
        generate_from(tmp_path/str(n), draw, LABELS, SHAPE, MADE, batch_size=14)
        assert (open_images(tmp_path/str(n))[0] == whole).all()
        names = {p.name for p in (tmp_path/str(n)).iterdir()} - {'.lock'}
        assert names == {'request.json', 'images.npy', 'labels.npy', 'notes.json'}
    assert n > 15


def begun(folder, stop):
    "Pictures of which some batches are missing."
    calls = []
    def f(noise, label):
        calls.append(len(label))
        if len(calls) == stop: raise KeyboardInterrupt
        return draw(noise, label)
    with pytest.raises(KeyboardInterrupt):
        generate_from(folder, f, LABELS, SHAPE, MADE, batch_size=10)


def test_what_is_there_is_not_made_again(whole, tmp_path):
    begun(tmp_path, stop=3)
    sizes = []
    def f(noise, label): return sizes.append(len(label)) or draw(noise, label)
    generate_from(tmp_path, f, LABELS, SHAPE, MADE, batch_size=8)
    assert sizes == [4, 8, 8] and (open_images(tmp_path)[0] == whole).all()


@pytest.mark.parametrize('damage', [
    lambda x: x[:5], lambda x: x.astype(float), lambda x: x ^ 1, lambda x: x[::-1]],
    ids=['cut', 'float', 'flipped', 'turned'])
def test_a_damaged_part_is_made_anew(whole, tmp_path, damage):
    begun(tmp_path, stop=4)
    path = sorted((tmp_path/'parts').iterdir())[1]
    np.save(path, damage(np.load(path)))
    with pytest.raises(ValueError, match='was damaged and is removed; call again'):
        generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
    generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
    assert (open_images(tmp_path)[0] == whole).all()


def test_a_damaged_part_and_two_that_join(whole, tmp_path):
    "Who comes second sees that a part is missing, and joins nothing."
    generate_all_but_joining(tmp_path)
    path = sorted((tmp_path/'parts').iterdir())[1]
    data = bytearray(path.read_bytes())
    data[12] ^= 1  # in the header
    path.write_bytes(data)
    for n in range(3):
        try: generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
        except ValueError as e: assert 'was damaged and is removed' in str(e) and n == 0
    assert (open_images(tmp_path)[0] == whole).all()


def generate_all_but_joining(folder):
    "All parts, by a process that is killed before it joins them."
    def one():
        generation._join = lambda *_: os._exit(0)
        generate_from(folder, draw, LABELS, SHAPE, MADE, batch_size=10)
    assert ends(start(1, one)) == [0] and not (folder/'images.npy').exists()


def test_joining_what_is_incomplete_does_nothing(tmp_path):
    begun(tmp_path, stop=4)
    request = json.loads((tmp_path/'request.json').read_text())
    generation._join(tmp_path, request, LABELS)
    assert not (tmp_path/'images.npy').exists() and list((tmp_path/'parts').iterdir())


@pytest.mark.parametrize('deed', ['gone', 'cut', 'flipped', 'longer'])
@pytest.mark.parametrize('name', ['images', 'labels'])
def test_a_finished_set_that_is_damaged(tmp_path, name, deed):
    generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
    path = tmp_path/f'{name}.npy'
    data = path.read_bytes()
    path.unlink()
    if deed == 'cut': path.write_bytes(data[:-10])
    if deed == 'flipped': path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if deed == 'longer': path.write_bytes(data + b'0')
    with pytest.raises(ValueError, match='is damaged|is not what was written|has no|is longer'):
        generate_from(tmp_path, draw, LABELS, SHAPE, MADE)


def test_what_made_says_does_not_hide_the_seed(tmp_path):
    made = dict(seed=5, labels='digits')
    generate_from(tmp_path, draw, LABELS, SHAPE, made, seed=0)
    for other in (dict(seed=1), dict(labels=LABELS[::-1])):
        asked = dict(labels=LABELS, seed=0) | other
        with pytest.raises(ValueError, match='other settings'):
            generate_from(tmp_path, draw, shape=SHAPE, made=made, **asked)


def test_files_that_are_no_parts_are_left_alone(whole, tmp_path):
    begun(tmp_path, stop=2)
    os.mkfifo(tmp_path/'parts'/f'rows_{10:09}_{20:09}_{"0"*16}.npy')
    (tmp_path/'parts'/f'rows_{0:09}_{10**9 - 1:09}_{"0"*16}.npy').write_bytes(b'')
    generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
    assert (open_images(tmp_path)[0] == whole).all()


@pytest.mark.parametrize(
    'other', [dict(seed=1), dict(labels=LABELS[::-1]),
              dict(made=MADE | dict(w=1.))], ids=lambda o: ' '.join(o))
def test_other_work_in_the_folder_is_refused(tmp_path, other):
    begun(tmp_path, stop=2)
    asked = dict(draw=draw, labels=LABELS, shape=SHAPE, made=MADE) | other
    with pytest.raises(ValueError, match='was begun with other settings'):
        generate_from(tmp_path, **asked)


@pytest.mark.parametrize('text', ['', '[]', '['*100_000, '{"made": []}'])
def test_a_damaged_request_is_a_sentence(tmp_path, text):
    begun(tmp_path, stop=2)
    (tmp_path/'request.json').write_text(text)
    with pytest.raises(ValueError, match='request.json (is damaged|does not say)'):
        generate_from(tmp_path, draw, LABELS, SHAPE, MADE)


@pytest.mark.parametrize('wrong', [
    dict(batch_size=0), dict(labels=LABELS + .5), dict(shape=(1, -8, 8)), dict(seed=-1),
    dict(made=dict(f=draw))], ids=lambda w: ' '.join(w))
def test_what_cannot_be_made_leaves_no_trace(tmp_path, wrong):
    asked = dict(draw=draw, labels=LABELS, shape=SHAPE, made=MADE) | wrong
    with pytest.raises(ValueError, match='must be|is no dict'): generate_from(tmp_path/'x', **asked)
    assert not (tmp_path/'x').exists()


def test_pictures_of_another_shape_are_refused(tmp_path):
    with pytest.raises(ValueError, match='draw returned'):
        generate_from(tmp_path, lambda noise, label: torch.zeros(1, 8, 8), LABELS, SHAPE, MADE)


def test_pictures_that_are_no_bytes_are_refused(tmp_path):
    with pytest.raises(ValueError, match='decode returned torch.float32'):
        generate_from(tmp_path, draw, LABELS, SHAPE, MADE, decode=lambda x: x)


def test_labels_of_another_width_are_the_same(whole, tmp_path):
    begun(tmp_path, stop=2)
    generate_from(tmp_path, draw, LABELS.astype(np.int32), SHAPE, MADE)
    assert (open_images(tmp_path)[0] == whole).all()


def test_one_step_is_refused_and_leaves_no_trace(tmp_path):
    def levels(T): return torch.cat([cosine(torch.linspace(1, 0, T)), torch.tensor([torch.inf])])
    network = generation.Network(lambda z, logsnr, label: z, SHAPE, 10, levels)
    with pytest.raises(ValueError, match='steps is 1; it must be'):
        generation.generate(tmp_path/'x', network, lambda f: f, sample, LABELS, 1, MADE)
    assert not (tmp_path/'x').exists()


def test_a_claim_has_a_name_of_its_own_on_each_machine(whole, tmp_path, monkeypatch):
    "Two machines may have the same process id; and who joins may clear the other's claim."
    names, write, link = [], generation.write_json, os.link
    def note(path, facts): names.append(path.name) or write(path, facts)
    def cleared(source, goal):
        link(source, goal)
        Path(source).unlink()
    monkeypatch.setattr(os, 'getpid', lambda: 7)
    monkeypatch.setattr(generation, 'write_json', note)
    monkeypatch.setattr(os, 'link', cleared)
    for name in 'ab': generate_from(tmp_path/name, draw, LABELS, SHAPE, MADE)
    claims = [name for name in names if name.startswith('request.')]
    assert len(claims) == len(set(claims)) == 2 and (open_images(tmp_path/'a')[0] == whole).all()


def test_a_full_disk_is_a_sentence_and_loses_nothing(whole, tmp_path, capfd):
    "Here files may not exceed 2,000 bytes: the parts fit, the whole does not."
    def cramped():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        generate_from(tmp_path, draw, LABELS, SHAPE, MADE, batch_size=10)
    assert ends(start(1, cramped)) == [1]
    said = capfd.readouterr().err
    assert 'images.npy could not be written' in said and 'Traceback' not in said
    generate_from(tmp_path, draw, LABELS, SHAPE, MADE)
    assert (open_images(tmp_path)[0] == whole).all()


def test_the_form_of_the_set(tmp_path):
    generate_from(tmp_path, draw, LABELS, SHAPE, MADE, seed=3)
    notes = json.loads((tmp_path/'notes.json').read_text())
    assert notes['images'] == [40, 1, 8, 8] and notes['seed'] == 3 and notes['made'] == MADE
    assert os.stat(tmp_path/'images.npy').st_size == 128 + 40*64
