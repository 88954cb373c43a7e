"Labelled pictures of every origin, and what lies around them."
import gzip
import io
import os
import shutil
import struct
import tarfile
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image

from cfg_lessons.commands import command
from cfg_lessons.features import OwnFeatures
from cfg_lessons.images import digits, open_images
from cfg_lessons.imagenet import evaluate_samples, generate_samples
from cfg_lessons.preparation import prepare
from cfg_lessons.recipes import train_recipe
from cfg_lessons.sources import SOURCES, decode, fashion_mnist, find_files, open_source
from cfg_lessons.training import save


def pictures(n=12, side=20, classes=3):
    "Bytes (N, H, W, 3) and labels, of which every class occurs."
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, side, side, 3), np.uint8), np.arange(n) % classes


def folders(where, x, y, name='class{}'):
    "Class folders of PNG files."
    for i, (picture, c) in enumerate(zip(x, y)):
        (where/name.format(c)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(where/name.format(c)/f'{i:02}.png')
    return where


class Toy:
    "A data set of torchvision's form."
    classes = ['a', 'b', 'c']

    def __len__(self): return 12

    def __getitem__(self, i):
        x, y = pictures()
        return Image.fromarray(x[i]), int(y[i])


def test_the_same_pictures_of_every_origin_are_the_same_set(tmp_path):
    "Class folders, an array in either layout, a data set of one's own, in the order of each."
    x, y = pictures()
    np.savez(tmp_path/'last.npz', images=x, labels=y)
    np.savez(tmp_path/'first.npz', arr_0=x.transpose(0, 3, 1, 2), arr_1=y)
    rows = np.argsort(y, kind='stable')
    for name, source, order in [('a', folders(tmp_path/'raw', x, y), rows),
                                ('b', tmp_path/'last.npz', np.arange(12)),
                                ('c', tmp_path/'first.npz', np.arange(12)),
                                ('d', Toy(), np.arange(12))]:
        notes = prepare(source, tmp_path/name, 20, workers=1)
        got, label, _ = open_images(tmp_path/name)
        assert (got == x[order].transpose(0, 3, 1, 2)).all() and (label == y[order]).all()
        assert len(notes['classes']) == 3
    grey = prepare(tmp_path/'last.npz', tmp_path/'grey', 10, 'area', channels=1, workers=1)
    assert grey['images'] == [12, 1, 10, 10]


def test_parquet_as_hugging_face_stores_it(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    x, y = pictures()
    def png(a):
        data = io.BytesIO()
        Image.fromarray(a).save(data, 'png')
        return data.getvalue()
    for part in (0, 1):
        rows = range(6*part, 6*part + 6)
        table = pa.table(
            dict(image=[dict(bytes=png(x[i]), path=f'{i}.png') for i in rows],
                 label=[int(y[i]) for i in rows]))
        pq.write_table(table, tmp_path/f'train-{part}.parquet', row_group_size=4)
    prepare(tmp_path, tmp_path/'set', 20, workers=1)
    assert (open_images(tmp_path/'set')[0] == x.transpose(0, 3, 1, 2)).all()
    assert (open_images(tmp_path/'set')[1] == y).all()


def test_a_part_of_the_classes(tmp_path):
    x, y = pictures()
    (tmp_path/'some.txt').write_text('class2\nclass0\n')
    notes = prepare(folders(tmp_path/'raw', x, y), tmp_path/'set', 20,
                    classes=str(tmp_path/'some.txt'), workers=1)
    assert notes['classes'] == ['class0', 'class2']
    assert open_images(tmp_path/'set')[1].tolist() == [0]*4 + [1]*4
    (tmp_path/'some.txt').write_text('class7')
    with pytest.raises(ValueError, match='names class7'):
        open_source(tmp_path/'raw', tmp_path/'some.txt')


def test_half_unpacked_and_packed_class_folders(tmp_path):
    "A folder of the inner archives, one of them unpacked, and an archive of class folders."
    x, y = pictures()
    folders(tmp_path/'raw', x, y, 'n0000000{}')
    wanted = [r[:2] for r in find_files(tmp_path/'raw').refs]
    with tarfile.open(tmp_path/'all.tar', 'w') as f: f.add(tmp_path/'raw', 'train')
    assert [r[:2] for r in find_files(tmp_path/'all.tar').refs] == wanted
    shutil.copytree(tmp_path/'raw', tmp_path/'half')
    for name in ('n00000001', 'n00000002'):
        with tarfile.open(tmp_path/'half'/f'{name}.tar', 'w') as f:
            for path in sorted((tmp_path/'half'/name).iterdir()): f.add(path, path.name)
        shutil.rmtree(tmp_path/'half'/name)
    half = find_files(tmp_path/'half')
    assert [r[:2] for r in half.refs] == wanted
    assert [decode(r)[0].tobytes() for r in half.refs
            ] == [decode(r)[0].tobytes() for r in find_files(tmp_path/'raw').refs]


def test_odd_things_among_the_pictures(tmp_path):
    """A FIFO and a link to nowhere do not hang and are named; a link to a picture is one; a name
    may be any bytes."""
    x, y = pictures()
    raw = folders(tmp_path/'raw', x, y)
    os.mkfifo(raw/'class0'/'pipe.png')
    (raw/'class1'/'nowhere.png').symlink_to('gone')
    (raw/'class1'/'link.png').symlink_to(raw/'class1'/'01.png')
    shutil.copy(raw/'class2'/'02.png', os.fsencode(str(raw/'class2')) + b'/caf\xe9.png')
    with pytest.raises(ValueError, match='2 of 16 pictures cannot be read'):
        prepare(raw, tmp_path/'set', 20, workers=1)
    notes = prepare(raw, tmp_path/'set', 20, workers=1, skip_unreadable=True)
    assert notes['counts'] == [4, 5, 5]
    assert notes['left_out'] == ['class0/pipe.png', 'class1/nowhere.png']
    assert prepare(raw, tmp_path/'set', 20, workers=1) == notes


def test_what_is_no_training_set_is_said(tmp_path):
    x, y = pictures()
    raw = folders(tmp_path/'raw', x, y)
    (raw/'empty').mkdir()
    with pytest.raises(ValueError, match='empty holds no pictures; fill or remove it'):
        find_files(raw)
    (tmp_path/'val').mkdir()
    for i in range(3): Image.fromarray(x[i]).save(tmp_path/'val'/f'ILSVRC2012_val_{i:08}.JPEG')
    with pytest.raises(ValueError, match='looks like the validation set'):
        find_files(tmp_path/'val')
    np.savez(tmp_path/'floats.npz', x/255, y)
    with pytest.raises(ValueError, match='must hold bytes'): open_source(tmp_path/'floats.npz')
    (tmp_path/'broken.npz').write_bytes(b'PK')
    with pytest.raises(ValueError, match='cannot be read as arrays'):
        open_source(tmp_path/'broken.npz')
    with tarfile.open(tmp_path/'links.tar', 'w') as f:
        f.add(raw/'class0'/'00.png', 'a/00.png')
        link = tarfile.TarInfo('a/01.png')
        link.type, link.linkname = tarfile.SYMTYPE, '00.png'
        f.addfile(link)
    with pytest.raises(ValueError, match='1 of 2 pictures cannot be read, such as a/01.png'):
        prepare(tmp_path/'links.tar', tmp_path/'x', 20, workers=1)


@pytest.mark.parametrize('data', [
    b'\0\0\0 ftypavif', b'DDS |' + bytes(200), b'%!PS-Adobe', b'GIF89a', b'\x89PNG\r\n\x1a\n', b''
])
def test_whatever_a_decoder_raises_is_a_sentence(data):
    with pytest.raises(ValueError) as e: decode(data)
    assert '\n' not in str(e.value) and str(e.value)


def test_colour_pictures_of_ones_own_from_the_command_line(tmp_path, capsys):
    """A data set of 32 x 32 pixels and five classes, with nothing to edit: prepare, train,
    generate, evaluate."""
    x, y = pictures(80, 40, 5)
    raw = folders(tmp_path/'raw', x, y)
    def run(name, *words):
        f = dict(prepare=prepare, train=train_recipe, generate=generate_samples,
                 evaluate=evaluate_samples)[name]
        command(f, [*map(str, words)], f'cfg-{name}')
    torch.set_num_threads(1)
    # untrained: what it finds is not looked at, and training one takes minutes
    judge = tmp_path/'judge.safetensors'
    save(judge, OwnFeatures(3, 5), command='a test')
    run('prepare', '--source', raw, '--out', tmp_path/'set', '--size', 32, '--workers', 1)
    run('train', 'digits', '--data', tmp_path/'set', '--out', tmp_path/'run', '--device', 'cpu',
        '--network.side', 32, '--network.channels', 3, '--network.num-classes', 5, '--train.steps',
        2, '--train.batch-size', 4)
    run('generate', '--network', tmp_path/'run', '--out', tmp_path/'samples', '--w', 0, 1,
        '--images', 70, '--steps', 2, '--sampler', 'ddim', '--device', 'cpu')
    run('evaluate', '--samples', tmp_path/'samples', '--data', tmp_path/'set', '--results',
        tmp_path/'records', '--features', judge, '--splits', 1, '--device', 'cpu')
    said = capsys.readouterr().out
    assert 'w=0  fid_own' in said and 'w=1  fid_own' in said
    assert open_images(tmp_path/'samples'/'w=1')[0].shape == (70, 3, 32, 32)


def test_digits_are_a_source_too(tmp_path):
    x, y = digits()
    np.savez(tmp_path/'digits.npz', x, y)
    assert prepare(tmp_path/'digits.npz', tmp_path/'set', 8, channels=1,
                   workers=1)['images'] == [1440, 1, 8, 8]
    assert (open_images(tmp_path/'set')[0] == x).all()


def test_fashion_mnist_from_debians_files(tmp_path, monkeypatch):
    """Files of the true layout (idx, packed with gzip, as Debian's dataset-fashion-mnist has them),
    read by torchvision and by its name."""
    monkeypatch.setenv('CFG_LESSONS_DATA', str(tmp_path/'data'))
    rng, packed, wanted = np.random.default_rng(0), tmp_path/'packed', {}
    packed.mkdir()
    for part, n in [('train', 30), ('t10k', 20)]:
        x, y = rng.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8) % 10
        wanted[part] = x, y
        for kind, a in [('images-idx3', x), ('labels-idx1', y)]:
            head = struct.pack(f'>{a.ndim + 1}i', 2048 + a.ndim, *a.shape)
            (packed/f'{part}-{kind}-ubyte.gz').write_bytes(gzip.compress(head + a.tobytes()))
    for train, part in [(True, 'train'), (False, 't10k')]:
        found = fashion_mnist(train, packed)
        assert np.array_equal(found.data, wanted[part][0])
        assert np.array_equal(found.targets, wanted[part][1])
    monkeypatch.setitem(SOURCES, 'fashion_mnist', partial(fashion_mnist, packed=packed))
    notes = prepare('fashion_mnist', tmp_path/'set', 28, channels=1, workers=1)
    x, y, _ = open_images(tmp_path/'set')
    assert np.array_equal(x[:, 0], wanted['train'][0]) and np.array_equal(y, wanted['train'][1])
    assert notes['class_names'][9] == 'Ankle boot'
    monkeypatch.setenv('CFG_LESSONS_DATA', str(tmp_path/'empty'))
    with patch('torchvision.datasets.FashionMNIST.download',
               side_effect=RuntimeError('no internet')):
        with pytest.raises(ValueError, match='install dataset-fashion-mnist'):
            fashion_mnist(packed=tmp_path/'nowhere')
