"""An attack on training and generation: kills, failing disks, damage and signals, and after each
the same end, byte for byte, as without.

    python tests/attack.py             all of it, about ten minutes on a core of its own
    python tests/attack.py --quick     a sample of each kind, about two minutes
    python tests/attack.py --only generate --out x.json     kinds whose name has this in it

PyTorch is imported once, and each attack is a fork of this process, which trains a tiny network or
draws a few pictures in a folder of its own. A library that is preloaded (attack_shim.c) counts its
file calls, those of PyTorch and safetensors too, and kills it or fails at a chosen one. Then a
second fork goes on undisturbed, and what it leaves is compared with an uninterrupted run: weights,
averages, optimizer, buffers, log and names of files. Faults are printed as they are found; the exit
status is 1 if there are any. Linux alone has what this needs."""
import argparse
import ctypes
import errno
import gc
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from functools import partial
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == '__main__' and 'ATTACK_SHIM' not in os.environ:  # once more, with it preloaded
    home = tempfile.mkdtemp(prefix='attack_', dir='/dev/shm' if Path('/dev/shm').is_dir() else None)
    shim = f'{home}/shim.so'
    source = ROOT/'tests'/'attack_shim.c'
    subprocess.run(['cc', '-O1', '-shared', '-fPIC', '-o', shim, source, '-ldl'], check=True)
    own = dict(ATTACK_SHIM=shim, LD_PRELOAD=shim, OMP_NUM_THREADS='1', PYTHONPATH=str(ROOT),
               CUDA_VISIBLE_DEVICES='')
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | own)

import torch
import torch.utils.tensorboard  # so that no fork has to
import tqdm
import attack_damage as damage
import attack_targets as targets
from attack_targets import Generation, Training, events, saved

from cfg_lessons.records import provenance

SHIM = ctypes.CDLL(os.environ['ATTACK_SHIM'])
SHIM.attack_last.restype = ctypes.c_char_p
HOME = Path(os.environ['ATTACK_SHIM']).parent
KILL, HALF, SHORT, FAIL, FULL = 1, 2, 3, 4, 5  # as in attack_shim.c
CHANGE, WRITE, GROW, LOOK = 1, 2, 4, 8


class Fault(Exception):
    "What the library did wrong, in words."


class Process:
    "A fork of this process that does a job and leaves with its answer; both are `ended` later."
    def __init__(self, job, arm=None, env=None):
        SHIM.attack_clear()
        handle, words = tempfile.mkstemp(dir=HOME/'words')
        os.close(handle)
        self.words = Path(words)
        self.pid, self.since = os.fork(), time.monotonic()
        if not self.pid: os._exit(self._inside(job, arm, env or {}))
        self.fd = os.pidfd_open(self.pid)

    def _inside(self, job, arm, env):
        for fd in (1, 2): os.dup2(os.open(self.words, os.O_WRONLY | os.O_APPEND), fd)
        os.environ |= dict(PATH='') | env  # without git, whose answer is not of interest here
        try:
            if arm: SHIM.attack_arm(*arm)
            os.write(2, f'\n@{job()}'.encode())
            return 0
        except (ValueError, OSError, MemoryError) as e:
            os.write(2, f'\n@{e}'.encode())
            return 1
        except KeyboardInterrupt: return 2
        except BaseException as e:
            os.write(2, f'{traceback.format_exc()}\n@{type(e).__name__}: {e}'.encode())
            return 3

    def waited(self, seconds):
        "Whether it has ended after at most so many seconds."
        ready = select.poll()
        ready.register(self.fd, select.POLLIN)
        return bool(ready.poll(1000*seconds))

    def kill(self, number=signal.SIGKILL):
        "Send a signal."
        try: signal.pidfd_send_signal(self.fd, number)
        except ProcessLookupError: pass  # it has ended, and nobody has asked yet

    def ended(self, alone=True, seconds=120):
        """Its exit status, or minus the signal, and its answer. Raises Fault if it hangs or, when
        no other rank was killed, if it has written a traceback."""
        hangs = not self.waited(seconds)
        if hangs: self.kill()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        text, self.seconds = self.words.read_text(), time.monotonic() - self.since
        self.words.unlink()
        if hangs: raise Fault(f'hangs; it said: {text[-300:]}')
        self.curves = 'tensorboard/summary/writer' in text  # its thread has said why it ended
        if alone and 'Traceback' in text and not self.curves:
            raise Fault(f'a traceback: {text[-600:]}')
        return code, text.rpartition('\n@')[2]


def group(n, job, arm=None, armed=0):
    "Processes that form a group of ranks; one of them may be armed."
    if n == 1: return [Process(job, arm)]
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    return [Process(job, arm if rank == armed else None,
                    env | dict(RANK=str(rank), LOCAL_RANK=str(rank))) for rank in range(n)]


def undisturbed(target, folder, goal, calls=1):
    "Let a job come to its end; its answer. Damage to a part may take more than one call."
    job = partial(getattr(target, 'work', target), folder, goal)
    for _ in range(calls):
        ends = [p.ended() for p in group(getattr(target, 'ranks', 1), job)]
        if all(code == 0 for code, _ in ends): return ends[0][1]
    raise Fault(f'undisturbed, it does not come to its end: {ends}')


def attacks_in(counts):
    "How many attacks there were of a kind."
    return sum(n for what, n in counts.items() if what != 'jobs' and what[:5] != 'ranks')


class Attack:
    "Counts of all attacks, by kind, and the faults that they found."
    def __init__(self, few, only, seed, out):
        self.few, self.only, self.chance, self.out = few, only, random.Random(seed), out
        self.about = provenance() | dict(few=few, only=only, seed=seed)
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
            except Fault as e:
                outcome = 'FAULT'
                self.faults.append(dict(kind=name, attack=label, call=self.call, fault=str(e)))
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
        self.bare.append(f'{self.name}: {self.call}: {text.replace(str(HOME), "")}')
        return 'a bare error'

    def report(self):
        "All that was counted and found until now, a dict for JSON."
        return self.about | dict(
            attacks=sum(map(attacks_in, self.counts.values())),
            seconds=round(sum(self.seconds.values())), cpu_seconds=round(sum(os.times()[:4])),
            faults=self.faults, bare_errors=self.bare, seconds_of=self.seconds,
            counts={k: dict(sorted(v.items())) for k, v in self.counts.items()})

    def table(self):
        "The counts, a line for each kind."
        width = max(map(len, self.counts), default=0)
        return '\n'.join(f'{k:{width}}  {attacks_in(v):5}  ' + ', '.join(f'{n} {o}' for o, n in
                         sorted(v.items())) for k, v in self.counts.items())

    def every(self, n, step):
        "The numbers 1, 1 + step, ... to n, or a few of them that are spread evenly."
        return range(1, n + 1, max(step, -(-n//self.few)) if self.few else step)


def begun(target, resumed):
    "A folder for one attack, new or with a job that was begun, and the goal of the job."
    folder = HOME/'work'/'run'
    if resumed: shutil.copytree(target.home/'begun', folder, symlinks=True)
    return folder, target.resumed if resumed else target.new


def finished(target, folder, goal, least=0, calls=1):
    "See that nothing is torn, let the job go on, and compare its end with the undisturbed one."
    if torn := target.torn(folder, least): raise Fault(torn)
    answer = undisturbed(target, folder, goal, calls)
    if answer != target.ends[goal]: raise Fault(f'{answer} instead of {target.ends[goal]}')
    if wrong := target.wrong(folder, goal): raise Fault(wrong)


def at_calls(attack, target, resumed, deed, kinds, error=errno.EIO, step=1):
    "Attempts at each file call of a job, counted beforehand: to kill there, or to let it fail."
    folder, goal = begun(target, resumed)
    def armed(n):
        return deed, n, error, kinds, str(HOME/'work'/'run').encode()
    process, = group(1, partial(target.work, folder, goal), armed(10**9))
    process.ended()
    calls = SHIM.attack_count()
    shutil.rmtree(HOME/'work')
    def attempt(n):
        folder, goal = begun(target, resumed)
        process, = group(1, partial(target.work, folder, goal), armed(n))
        code, answer = process.ended()
        attack.call = SHIM.attack_last().decode()
        if SHIM.attack_count() < n: outcome = 'not reached'
        elif deed in (KILL, HALF): outcome = 'killed'
        else: outcome = 'went on' if code == 0 else attack.error(answer)
        if outcome == 'killed' and code != -signal.SIGKILL:
            raise Fault(f'left with {code}: {answer}')
        if code == 0 and target.progress(folder) < target.progress(target.straight(goal)):
            raise Fault(f'it says {answer}, and has saved nothing')
        finished(target, folder, goal, target.progress(target.home/'begun') if resumed else 0)
        return outcome + ', a traceback of TensorBoard'*process.curves
    for n in attack.every(calls, step):
        yield f'{"resumed" if resumed else "new"}, call {n} of {calls}', partial(attempt, n)


def usual(target, resumed=False):
    "How long an undisturbed job takes, in seconds, at this moment."
    folder, goal = begun(target, resumed)
    processes = group(target.ranks, partial(target.work, folder, goal))
    for process in processes: process.ended()
    shutil.rmtree(HOME/'work')
    return processes[0].seconds


def left_alone(attack, processes):
    "The ranks without the one that was killed: they end, or are ended as torchrun does it."
    for process in processes:
        itself = process.waited(5)
        attack.counts[attack.name]['ranks that ended by themselves'] += itself
        attack.counts[attack.name]['ranks that waited for the killed one'] += not itself
        process.kill()
        process.ended(alone=False)


def killed_at_random(attack, target, kills, resumed=False):
    "Attempts, each of one job that is killed at random moments until it has come to its end."
    done = Counter()
    def attempt():
        folder, goal = begun(target, resumed)
        least = 0
        while done['kills'] < kills:
            processes = group(target.ranks, partial(target.work, folder, goal))
            victim = attack.chance.choice(processes)
            victim.waited(attack.chance.uniform(0, 1.1*done['usual']))
            victim.kill()
            if victim.ended(alone=False)[0] == 0: break  # too late
            left_alone(attack, [p for p in processes if p != victim])
            done['kills'] += 1
            attack.counts[attack.name]['kills'] += 1
            if torn := target.torn(folder, least): raise Fault(torn)
            least = target.progress(folder)
        finished(target, folder, goal, least)
        return 'jobs'
    while done['kills'] < kills:
        done['usual'] = usual(target, resumed)
        yield f'{done["kills"]} kills before', attempt


def signalled(attack, target, n):
    "Attempts: SIGTERM or SIGINT at a random moment, sometimes twice, ends it in good order."
    expected = usual(target)
    def attempt():
        folder, goal = begun(target, False)
        process, = group(1, partial(target.work, folder, goal))
        number = attack.chance.choice([signal.SIGTERM, signal.SIGINT])
        process.waited(attack.chance.uniform(0, 1.1*expected))
        for _ in range(attack.chance.choice([1, 1, 2])): process.kill(number)
        code, answer = process.ended()
        names = [e['event'] for e in events(folder)] if (folder/'log.jsonl').exists() else []
        within = 'step' in names and names[-1] != 'stop'
        if code != 0 and within: raise Fault(f'{number.name} in training: {code} {answer}')
        if code == 0 and names[-1] != 'stop': raise Fault(f'{answer}, and the log ends {names[-1]}')
        last = [e['step'] for e in events(folder) if e['event'] == 'step'][-1:] if names else []
        if code == 0 and [target.progress(folder)] != last: raise Fault('the last step is lost')
        finished(target, folder, goal, *last)
        return answer.split()[0] if code == 0 else 'outside of training'
    for i in range(n): yield f'signal {i}', attempt


def damaged(attack, target, n):
    "Attempts: checkpoints are damaged; the newest whole one is used, or none, in one sentence."
    def attempt():
        folder, goal = begun(target, True)
        attack.call, seal = damage.checkpoint(folder, attack.chance)
        whole = [0] if seal else [int(p.name[5:]) for p in saved(folder)
                                    if targets.whole(p)]
        process, = group(1, partial(target.work, folder, goal))
        code, answer = process.ended()
        if code == 1 and (seal or not whole): return attack.error(answer)
        used = targets.first_step(folder)
        if code or not whole and used == 0: raise Fault(f'{whole} are whole: {code} {answer}')
        if used != max(whole) and not seal: raise Fault(f'{used} was used, but {whole} are whole')
        if wrong := target.wrong(folder, goal): raise Fault(f'after {used}, {wrong}')
        return f'step {used} used'
    for i in range(n): yield f'damage {i}', attempt


ODD = (os.mkfifo, os.mkdir, damage.loop, damage.dangling, damage.full_device, damage.empty,
       damage.deep_json)


def in_the_way(attack, target, resumed):
    "Attempts: something odd stands where a job wants a file or a folder of its own."
    def attempt(name, make):
        folder, goal = begun(target, resumed)
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir(): path.rename(HOME/'work'/'aside')
        else: path.unlink(missing_ok=True)
        make(path)
        process, = group(1, partial(target.work, folder, goal))
        code, answer = process.ended()
        if code == 1: return attack.error(answer)
        if code or answer != target.ends[goal]: raise Fault(f'left with {code}: {answer}')
        if not target.same(folder, goal): raise Fault('done, but the result is another')
        return 'done'
    pairs = [*product(target.files(resumed), ODD)]
    for i in attack.every(len(pairs), 1):
        name, make = pairs[i - 1]
        yield f'{make.__name__} as {name}', partial(attempt, name, make)


def damaged_pictures(attack, target, n, complete):
    "Attempts: parts, or a finished set, are damaged; they are made anew, or it says so."
    def attempt():
        folder, goal = HOME/'work'/'run', 1
        shutil.copytree(target.straight(1) if complete else target.home/'begun', folder)
        files = [p for p in folder.rglob('*') if p.is_file() and p.stat().st_size
                 and (complete or p.parent.name == 'parts')]
        path, deed = attack.chance.choice(sorted(files)), attack.chance.choice(damage.KINDS)
        attack.call = f'{deed.__name__} {path.name}'
        deed(path, attack.chance)
        process, = group(1, partial(target.work, folder, goal))
        code, answer = process.ended()
        outcome = attack.error(answer) if code else 'made anew'
        if complete and code: return outcome
        finished(target, folder, goal, calls=8)
        return outcome + ', then made anew'*bool(code)
    for i in range(n): yield f'damage {i}', attempt


def other_ranks(attack, n):
    "Attempts: one rank, two, and one again, with a kill in between or without."
    one, two = (Training(HOME/'one', r, buffer=False, microbatch=4, goals=(6, 8))
                for r in (1, 2))
    if not one.home.is_dir(): one.prepare(undisturbed)
    def attempt():
        folder, cuts = HOME/'work'/'run', sorted(attack.chance.sample(range(1, 8), 2))
        for target, goal, kill in ((one, cuts[0], 0), (two, cuts[1], 1), (two, cuts[1], 0)):
            processes = group(target.ranks, partial(target.work, folder, goal))
            if kill:
                processes[0].waited(attack.chance.uniform(0, 1))
                processes.pop(attack.chance.randrange(2)).kill()
                left_alone(attack, processes)
            else:
                for process in processes: process.ended()
        return finished(one, folder, 8) or 'same end'
    for i in range(n): yield f'ranks {i}', attempt


CALLS = (('kill -9 before each change', KILL, CHANGE), ('kill -9 within each write', HALF, WRITE),
         ('each fourth write cut short', SHORT, WRITE, errno.EIO, 4),
         ('each fifth call fails with EIO', FAIL, CHANGE | LOOK, errno.EIO, 5),
         ('each second change fails with ENOSPC', FAIL, CHANGE, errno.ENOSPC, 2),
         ('disk full from each call on', FULL, GROW, errno.ENOSPC))


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
    "Do a job once here, so that no fork has to load anything; no thread may stay."
    tqdm.tqdm.monitor_interval = 0
    path = os.environ.pop('PATH')
    torch.set_num_threads(1)
    task.work(task.home/'warm', task.new)
    os.environ['PATH'] = path
    gc.freeze()
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


def main(few, only, out, seed):
    "Everything, in order; a table, a file if asked for, and the exit status."
    attack = Attack(few, only, seed, out)
    (HOME/'words').mkdir()
    try:
        attack_fit(attack, few)
        attack_ranks(attack, few and max(2, few//8))
        attack_generate(attack, few)
    finally: shutil.rmtree(HOME)
    print(attack.table())
    return bool(attack.faults)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--few', type=int, default=0, help='about so many attacks of each kind')
    parser.add_argument('--quick', action='store_const', const=8, dest='few', help='--few 8')
    parser.add_argument('--only', default='', help='only kinds whose name has this in it')
    parser.add_argument('--out', type=Path, help='where to write the counts, a .json')
    parser.add_argument('--seed', type=int, default=0, help='of moments and damage')
    sys.exit(main(**vars(parser.parse_args())))
