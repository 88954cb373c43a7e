"The command: all attacks in order, their counts, and a file of what was found."
import argparse
import gc
import json
import os
import random
import shutil
import threading
import time
from collections import Counter
from pathlib import Path

import torch.utils.tensorboard  # so that no fork has to
import tqdm

from cfg_lessons.records import provenance

from . import damage
from .kinds import (CALLS, at_calls, damaged, damaged_pictures, in_the_way, killed_at_random,
                    other_ranks, signalled)
from .process import HOME, Fault, named
from .targets import Generation, Training, saved


class Attack:
    "Does attacks and counts them, by kind, in a record, with the faults that they found."
    def __init__(self, few, only, seed, out):
        self.few, self.only, self.chance, self.out = few, only, random.Random(seed), out
        self.faults = 0
        found = dict(attacks=0, seconds=0, faults=[], bare_errors=[], seconds_of={}, counts={})
        if out and out.exists(): found |= {k: json.loads(out.read_text())[k] for k in found}
        self.record = provenance() | dict(few=few, seed=seed) | found

    def kind(self, name, attempts):
        "Do all attempts, (label, () -> outcome), of a kind."
        if self.only not in name: return
        record, self.name, since = self.record, name, time.monotonic()
        record['counts'][name] = Counter()
        for k in ('faults', 'bare_errors'):
            record[k] = [found for found in record[k] if found['kind'] != name]
        for label, attempt in attempts:
            self.call = ''
            try: self.count(attempt())
            except Exception as e:  # a Fault of the library, or a mistake in an attack
                self.count('FAULT')
                self.faults += 1
                self.found('faults', attack=label, fault=str(e) if type(e) is Fault else repr(e))
                print(f'FAULT in {record["faults"][-1]}', flush=True)
        record['seconds_of'][name] = seconds = round(time.monotonic() - since, 1)
        record['seconds'] = round(sum(record['seconds_of'].values()))
        record['attacks'] = sum(n for counts in record['counts'].values() for what, n in
                                counts.items() if what != 'jobs' and what[:5] != 'ranks')
        print(f'{seconds:7.1f} s  {name}: {dict(record["counts"][name])}', flush=True)
        if self.out: self.out.write_text(json.dumps(record, indent=1) + '\n')

    def count(self, what, n=1):
        "How often something happened in this kind of attack, now that it did n times more."
        self.record['counts'][self.name][what] += n
        return self.record['counts'][self.name][what]

    def found(self, where, **words):
        "Note something in the record."
        words = {k: named(v) for k, v in words.items()}
        self.record[where].append(dict(kind=self.name, call=self.call) | words)

    def error(self, text):
        "Which kind an error is: a sentence, or the system's words. Raises Fault for more."
        if '\n' in text.strip(): raise Fault(f'many lines: {text[:600]!r}')
        if text[:6] != '[Errno' and text[-1:] == '.': return 'one sentence'
        self.found('bare_errors', text=text)
        return 'a bare error'

    def every(self, n, step=1):
        "The numbers 1, 1 + step, ... to n, or a few of them that are spread evenly."
        return range(1, n + 1, max(step, -(-n//self.few)) if self.few else step)


def check_the_checks(target):
    "That comparing notices a difference: another seed, a flipped bit, a line less in the log."
    other = Training(HOME/'other', seed=1)
    for training in (target, other): training.prepare()
    new, goal = (target.straight(goal) for goal in (target.new, target.resumed))
    assert target.wrong(goal, target.resumed) == ''
    folder = other.straight(target.resumed)
    assert 'tensors differ' in target.wrong(folder, target.resumed)
    damage.flip(saved(folder)[0]/'manifest.json', random.Random(0))
    assert 'is torn' in target.wrong(folder, target.resumed)
    log = shutil.copytree(new, HOME/'other/log')/'log.jsonl'
    lines = log.read_text().splitlines(True)
    log.write_text(''.join(line for line in lines if '"step": 3' not in line))
    assert 'step 4 follows step 2' in target.wrong(log.parent, target.new)


def warmed_up(task):
    """The task, done once here, so that no fork has to load anything. No thread may stay, and no
    lock be shared by forks: who is killed with it would leave it locked for all others."""
    tqdm.tqdm.monitor_interval = 0
    tqdm.tqdm.set_lock(threading.RLock())
    path = os.environ.pop('PATH')
    task.work(task.home/'warm', task.new)
    os.environ['PATH'] = path
    gc.freeze()
    for thread in set(threading.enumerate()) - {threading.main_thread()}: thread.join(10)
    assert threading.active_count() == 1
    return task


def attack_calls(attack, task, name, kills):
    "Kills and failures at chosen calls and at random moments, and odd files."
    for words, *how in CALLS:
        for begin, resumed in (('new', False), ('resumed', True)):
            attack.kind(f'{name}, {begin}: {words}', at_calls(attack, task, resumed, *how))
    attack.kind(f'{name}: kill -9 at random moments', killed_at_random(attack, task, kills))
    attack.kind(f'{name}: something in the way', in_the_way(attack, task))


def main():
    "Everything that was asked for; the exit status."
    parser = argparse.ArgumentParser(prog='tests/attack', description=(
        'Attack training and generation, and compare how they end with how they should.'))
    parser.add_argument('--few', type=int, default=0, help='about so many attacks of each kind')
    parser.add_argument('--quick', action='store_const', const=8, dest='few', help='--few 8')
    parser.add_argument('--only', default='', help='only kinds whose name has this in it')
    parser.add_argument('--out', type=Path, help='where to write the counts, a .json; '
                        'kinds that it has and that are not tried now stay in it')
    parser.add_argument('--seed', type=int, default=0, help='of moments and damage')
    attack = Attack(**vars(parser.parse_args()))
    few = attack.few

    task = warmed_up(Training(HOME/'training'))
    check_the_checks(task)
    attack_calls(attack, task, 'fit', few or 300)
    attack.kind('fit: damaged checkpoints', damaged(attack, task, 5*few or 1000))
    attack.kind('fit: SIGTERM and SIGINT', signalled(attack, task, few or 100))

    fewer = few and max(2, few//8)  # two processes that speak with gloo take long
    for words, how in (('DDP', {}), ('FSDP2', dict(fsdp=True)),
                       ('NaN on one rank', dict(nan=(1, 3)))):
        kills = killed_at_random(attack, Training(HOME/words, ranks=2, **how), fewer or 10)
        attack.kind(f'two ranks, {words}: one killed at random moments', kills)
    attack.kind('two ranks, 1 -> 2 -> 1: one killed, too', other_ranks(attack, fewer or 6))

    task = warmed_up(Generation(HOME/'generation'))
    attack_calls(attack, task, 'generate', few or 100)
    for words, complete in (('parts', False), ('finished sets', True)):
        attack.kind(f'generate: damaged {words}',
                    damaged_pictures(attack, task, few or 100, complete))
    print(f'{attack.record["attacks"]} attacks, {attack.faults} faults')
    return bool(attack.faults)
