"The command: all attacks in order, a table of them, and a file of what was found."
import argparse
import gc
import json
import os
import random
import shutil
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

import torch
import torch.utils.tensorboard  # so that no fork has to
import tqdm

from cfg_lessons.records import provenance

from . import damage
from .kinds import (CALLS, at_calls, damaged, damaged_pictures, in_the_way, killed_at_random,
                    other_ranks, signalled)
from .process import HOME, Fault, undisturbed
from .targets import Generation, Training, saved


def attacks_in(counts):
    "How many attacks there were of a kind."
    return sum(n for what, n in counts.items() if what != 'jobs' and what[:5] != 'ranks')


class Attack:
    "Counts of all attacks, by kind, and the faults that they found."
    def __init__(self, few, only, seed, out):
        self.few, self.only, self.chance, self.out = few, only, random.Random(seed), out
        self.about = provenance() | dict(few=few, seed=seed)
        self.counts, self.faults, self.seconds, self.bare = defaultdict(Counter), [], {}, []

    def kind(self, name, attempts):
        "Do all attempts, (label, () -> outcome), of a kind."
        if self.only not in name: return
        self.name = name
        begin, folder = time.monotonic(), HOME/'work'
        for label, attempt in attempts:
            folder.mkdir()
            self.call = ''
            try: outcome = attempt()
            except Exception as e:  # a Fault of the library, or a mistake in an attack
                outcome, said = 'FAULT', str(e) if isinstance(e, Fault) else repr(e)
                self.faults.append(dict(kind=name, attack=label, call=self.call, fault=said))
                print(f'FAULT in {name}: {label}, {self.call}: {e}', flush=True)
            shutil.rmtree(folder)
            self.counts[name][outcome] += 1
        self.seconds[name] = round(time.monotonic() - begin, 1)
        print(f'{self.seconds[name]:7.1f} s  {name}: {dict(self.counts[name])}', flush=True)
        if self.out: self.out.write_text(json.dumps(self.report(), indent=1) + '\n')

    def error(self, text):
        "Which kind an error is: a sentence, or the system's words. Raises Fault for more."
        if '\n' in text.strip(): raise Fault(f'many lines: {text[:600]!r}')
        if text[:6] != '[Errno' and text[-1:] == '.': return 'one sentence'
        words = text.replace(str(HOME), '')
        self.bare.append(dict(kind=self.name, call=self.call, text=words))
        return 'a bare error'

    def report(self):
        "What was counted and found, now and before in kinds that were not tried again; a dict."
        before = json.loads(self.out.read_text()) if self.out.exists() else {}
        counts = before.get('counts', {}) | {k: dict(v) for k, v in self.counts.items()}
        seconds = before.get('seconds_of', {}) | self.seconds
        def all_of(name, now):
            return [v for v in before.get(name, []) if v['kind'] not in self.counts] + now
        return self.about | dict(
            attacks=sum(map(attacks_in, counts.values())), seconds=round(sum(seconds.values())),
            faults=all_of('faults', self.faults), bare_errors=all_of('bare_errors', self.bare),
            seconds_of=seconds, counts=counts)

    def table(self):
        "The counts, a line for each kind."
        width = max(map(len, self.counts), default=0)
        return '\n'.join(f'{k:{width}}  {attacks_in(v):5}  ' + ', '.join(f'{n} {o}' for o, n in
                         sorted(v.items())) for k, v in self.counts.items())

    def every(self, n, step):
        "The numbers 1, 1 + step, ... to n, or a few of them that are spread evenly."
        return range(1, n + 1, max(step, -(-n//self.few)) if self.few else step)


def check_the_checks(target):
    "That comparing notices a difference: another seed, a flipped bit, a line less in the log."
    other = Training(HOME/'other', seed=1)
    other.prepare(undisturbed)
    goal, chance = target.resumed, random.Random(0)
    assert target.wrong(target.straight(goal), goal) == ''
    assert 'tensors differ' in target.wrong(other.straight(goal), goal)
    folder = other.straight(goal)
    damage.flip(saved(folder)[0]/'manifest.json', chance)
    assert 'is torn' in target.wrong(folder, goal)
    folder = other.straight(target.new)
    shutil.rmtree(folder)
    shutil.copytree(target.straight(target.new), folder)
    lines = (folder/'log.jsonl').read_text().splitlines()
    (folder/'log.jsonl').write_text('\n'.join(line for line in lines if '"step": 3' not in line))
    assert 'step 4 follows step 2' in target.wrong(folder, target.new)


def warmed_up(task):
    """Do a job once here, so that no fork has to load anything. No thread may stay, and no lock be
    shared by forks: who is killed with it would leave it locked for all others."""
    tqdm.tqdm.monitor_interval = 0
    tqdm.tqdm.set_lock(threading.RLock())
    path = os.environ.pop('PATH')
    torch.set_num_threads(1)
    task.work(task.home/'warm', task.new)
    os.environ['PATH'] = path
    gc.freeze()
    for thread in set(threading.enumerate()) - {threading.main_thread()}: thread.join(10)
    assert threading.active_count() == 1


def attack_calls(attack, task, name, few, kills):
    "Kills and failures at chosen calls and at random moments, and odd files."
    for words, *how in CALLS:
        for begin, resumed in (('new', False), ('resumed', True)):
            attack.kind(f'{name}, {begin}: {words}', at_calls(attack, task, resumed, *how))
    attack.kind(f'{name}: kill -9 at random moments', killed_at_random(attack, task, few or kills))
    odd = (a for resumed in (False, True) for a in in_the_way(attack, task, resumed))
    attack.kind(f'{name}: something in the way', odd)


def attack_fit(attack, few):
    "Trainings in one process."
    task = Training(HOME/'training')
    warmed_up(task)
    task.prepare(undisturbed)
    check_the_checks(task)
    attack_calls(attack, task, 'fit', few, 300)
    attack.kind('fit: damaged checkpoints', damaged(attack, task, 5*few or 1000))
    attack.kind('fit: SIGTERM and SIGINT', signalled(attack, task, few or 100))


def attack_generate(attack, few):
    "Generation in one process."
    task = Generation(HOME/'generation')
    warmed_up(task)
    task.prepare(undisturbed)
    attack_calls(attack, task, 'generate', few, 100)
    for words, complete in (('parts', False), ('finished sets', True)):
        attempts = damaged_pictures(attack, task, few or 100, complete)
        attack.kind(f'generate: damaged {words}', attempts)


def attack_ranks(attack, few):
    "Jobs of two processes that speak with gloo."
    bad = dict(nan=(1, 3))
    for words, how in (('DDP', {}), ('FSDP2', dict(fsdp=True)), ('NaN on one rank', bad)):
        if attack.only not in f'two ranks, {words}': continue
        task = Training(HOME/words, ranks=2, **how)
        task.prepare(undisturbed)
        kills = killed_at_random(attack, task, few or 10)
        attack.kind(f'two ranks, {words}: one killed at random moments', kills)
    attack.kind('two ranks, 1 -> 2 -> 1: one killed, too', other_ranks(attack, few or 6))


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
    (HOME/'words').mkdir()
    attack_fit(attack, few)
    attack_ranks(attack, few and max(2, few//8))
    attack_generate(attack, few)
    print(attack.table())
    return bool(attack.faults)
