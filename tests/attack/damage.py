"""Damage to files and to checkpoints. What damages a file is f(path, chance), with a random.Random;
what stands in its place is f(path)."""
import hashlib
import os
import pickle
import shutil
from pathlib import Path

from .targets import saved


def cut(path, chance):
    "Shorter, perhaps empty."
    os.truncate(path, chance.randrange(path.stat().st_size))


def flip(path, chance):
    "One bit."
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def zero(path, chance):
    "A block of zeros, one byte of which was none."
    data = bytearray(path.read_bytes())
    at = chance.choice([i for i, byte in enumerate(data[:4000]) if byte])
    data[at:at + 512] = bytes(len(data[at:at + 512]))
    path.write_bytes(data)


def longer(path, chance):
    "Something after the end."
    with open(path, 'ab') as f: f.write(chance.randbytes(chance.choice([1, 7, 4096])))


def gone(path, chance): path.unlink()


def instead(make):
    "Something else under the same name."
    def damage(path, chance):
        path.unlink()
        make(path)
    damage.__name__ = make.__name__
    return damage


def fifo(path): os.mkfifo(path)
def folder(path): path.mkdir()
def loop(path): path.symlink_to(path.name)
def dangling(path): path.symlink_to('nowhere')
def a_pickle(path): path.write_bytes(pickle.dumps(dict(x=1)))
def deep_json(path): path.write_bytes(b'['*100_000)
def deep_header(path): path.write_bytes((100_000).to_bytes(8, 'little') + b'{"a":'*20_000)
def full_device(path): path.symlink_to('/dev/full')
def empty(path): path.write_bytes(b'')


def linked(path, chance):
    "A symbolic link to the same bytes elsewhere."
    beyond = next(p for p in path.parents if p.name == 'work')  # of the folder that is attacked
    elsewhere = beyond/f'elsewhere_{path.name}'
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def swapped(path, chance):
    "Exchanged with another file that has other bytes."
    alike = [p for p in path.parent.parent.rglob(f'*{path.suffix}') if p.is_file()
             and not p.is_symlink() and p.read_bytes() != path.read_bytes()]
    if not alike: return flip(path, chance)  # all others are damaged already
    other = chance.choice(sorted(alike))
    mine = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


KINDS = [cut, flip, zero, longer, gone, linked, swapped, *map(instead, (
    fifo, folder, loop, dangling, a_pickle, deep_json, deep_header, empty))]
FITTING = [cut, *map(instead, (a_pickle, deep_json, deep_header, empty))]  # also with new digests


def resealed(path):
    "Give a checkpoint digests that fit, whatever is in it."
    lines = [f'{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n'
             for p in sorted(path.iterdir()) if p.name != 'SHA256SUMS' and p.is_file()]
    (path/'SHA256SUMS').write_text(''.join(lines))


def instead_of_all(path, chance):
    "Something else in place of a whole checkpoint; what, in words."
    aside, older = path.parents[2]/'aside', saved(path.parents[1])[0]
    path.rename(aside)
    deeds = dict(older_one=lambda p: shutil.copytree(older, p),
                 link_to_older=lambda p: p.symlink_to(older.name), fifo=os.mkfifo, folder=os.mkdir,
                 loop=lambda p: p.symlink_to(p.name), file=Path.touch)
    name = chance.choice([*deeds])
    deeds[name](path)
    return f'{name} for {path.name}', False


def checkpoint(folder, chance):
    "Damage one, two or all checkpoints; in words what was done, and whether digests fit again."
    said, seal = [], chance.random() < .15
    paths = saved(folder)[-chance.choice([1, 1, 1, 1, 2, 3]):]
    if len(paths) == 1 and chance.random() < .15: return instead_of_all(paths[0], chance)
    for path in paths:
        deed = chance.choice(FITTING if seal else KINDS)
        file = chance.choice(sorted(path.glob('[sm]*' if seal else '*')))
        if not file.stat().st_size: continue  # emptied already, in exchange with another
        deed(file, chance)
        if seal: resealed(path)
        said.append(f'{deed.__name__} {path.name}/{file.name[:8]}')
    return ', '.join(said) + ' resealed'*seal, seal
