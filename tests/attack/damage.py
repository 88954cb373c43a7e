"""Damage to files and to checkpoints. What damages a file is f(path, chance), with a random.Random;
what stands in its place is f(path)."""
import os
import pickle
import shutil
from functools import wraps
from pathlib import Path

from .targets import digests, saved


def in_bytes(change):
    "Damage to a file by what it does to its bytes."
    @wraps(change)
    def damage(path, chance): path.write_bytes(change(bytearray(path.read_bytes()), chance))
    return damage


def instead(make):
    "Something else under the same name."
    @wraps(make)
    def damage(path, chance):
        path.unlink()
        make(path)
    return damage


@in_bytes
def cut(data, chance): return data[:chance.randrange(len(data))]


@in_bytes
def longer(data, chance): return data + chance.randbytes(chance.choice([1, 7, 4096]))


@in_bytes
def flip(data, chance):
    "One bit."
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


@in_bytes
def zero(data, chance):
    "A block of zeros, one byte of which was none."
    at = chance.choice([i for i, byte in enumerate(data[:4000]) if byte])
    return data[:at] + bytes(len(data[at:at + 512])) + data[at + 512:]


def gone(path, chance): path.unlink()
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
    path.symlink_to(path.rename(beyond/f'elsewhere_{path.name}'))


def swapped(path, chance):
    "Exchanged with another file that has other bytes."
    mine = path.read_bytes()
    alike = [p for p in path.parent.parent.rglob(f'*{path.suffix}') if p.is_file()
             and not p.is_symlink() and p.read_bytes() != mine]
    if not alike: return flip(path, chance)  # all others are damaged already
    other = chance.choice(sorted(alike))
    path.write_bytes(other.read_bytes())
    other.write_bytes(mine)


FITTING = [cut, *map(instead, (a_pickle, deep_json, deep_header, empty))]  # also with new digests
KINDS = [*FITTING, flip, zero, longer, gone, linked, swapped,
         *map(instead, (fifo, folder, loop, dangling))]


def resealed(path):
    "Give a checkpoint digests that fit, whatever is in it."
    (path/'SHA256SUMS').write_text('\n'.join(digests(path)) + '\n')


def instead_of_all(path, chance):
    "Something else in place of a whole checkpoint; what, in words."
    older = saved(path.parents[1])[0]
    path.rename(path.parents[2]/'aside')
    def older_one(path): shutil.copytree(older, path)
    def link_to_older(path): path.symlink_to(older.name)
    make = chance.choice([older_one, link_to_older, fifo, folder, loop, Path.touch])
    make(path)
    return f'{make.__name__} for {path.name}'


def checkpoint(folder, chance):
    "Damage one, two or all checkpoints; in words what was done, and whether digests fit again."
    said, seal = [], chance.random() < .15
    paths = saved(folder)[-chance.choice([1, 1, 1, 1, 2, 3]):]
    if len(paths) == 1 and chance.random() < .15: return instead_of_all(paths[0], chance), False
    for path in paths:
        deed = chance.choice(FITTING if seal else KINDS)
        file = chance.choice(sorted(path.glob('[sm]*' if seal else '*')))
        if not file.stat().st_size: continue  # emptied already, in exchange with another
        deed(file, chance)
        if seal: resealed(path)
        said.append(f'{deed.__name__} {path.name}/{file.name[:8]}')
    return ', '.join(said) + ' resealed'*seal, seal
