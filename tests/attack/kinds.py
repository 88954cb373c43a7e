"The kinds of attack: each yields attempts, (label, () -> outcome), which raise Fault."
import errno
import os
import shutil
import signal
import time
from functools import partial
from itertools import product

from . import damage, targets
from .process import (CHANGE, FAIL, FULL, GROW, HALF, HOME, KILL, LOOK, SHIM, SHORT, WORK, WRITE,
                      Fault, group, undisturbed)
from .targets import Training, events, saved

CALLS = (('kill -9 before each change', KILL, CHANGE), ('kill -9 within each write', HALF, WRITE),
         ('each fourth write cut short', SHORT, WRITE, errno.EIO, 4),
         ('each fifth call fails with EIO', FAIL, CHANGE | LOOK, errno.EIO, 5),
         ('each second change fails with ENOSPC', FAIL, CHANGE, errno.ENOSPC, 2),
         ('disk full from each call on', FULL, GROW, errno.ENOSPC))
ODD = (os.mkfifo, os.mkdir, damage.loop, damage.dangling, damage.full_device, damage.empty,
       damage.deep_json)


def begun(target, resumed=False):
    "Prepare the folder for one attack, new or with a job that was begun; the goal of the job."
    if not target.ends: target.prepare()
    shutil.rmtree(WORK.parent, ignore_errors=True)
    WORK.parent.mkdir()
    if resumed: shutil.copytree(target.home/'begun', WORK)
    return target.resumed if resumed else target.new


def finished(target, goal, least=0, calls=1):
    "See that nothing is torn, let the job go on, and compare its end with the undisturbed one."
    if torn := target.torn(WORK, least): raise Fault(torn)
    answer = undisturbed(target, WORK, goal, calls)
    if answer != target.ends[goal]: raise Fault(f'{answer} instead of {target.ends[goal]}')
    if wrong := target.wrong(WORK, goal): raise Fault(wrong)


def at_calls(attack, target, resumed, deed, kinds, error=errno.EIO, step=1):
    "Attempts at each file call of a job, counted beforehand: to kill there, or to let it fail."
    def armed(n):
        goal = begun(target, resumed)
        return goal, group(target, WORK, goal, (deed, n, error, kinds))[0]
    armed(10**9)[1].ended()
    calls = SHIM.attack_count()
    def attempt(n):
        goal, process = armed(n)
        process.waited(120)
        attack.call = SHIM.attack_last().decode()
        code, answer = process.ended()
        if code == 0 and target.progress(WORK) < target.progress(target.straight(goal)):
            raise Fault(f'it says {answer}, and has saved nothing')
        if SHIM.attack_count() < n: outcome = 'not reached'
        elif deed not in (KILL, HALF): outcome = 'went on' if code == 0 else attack.error(answer)
        elif code == -signal.SIGKILL: outcome = 'killed'
        else: raise Fault(f'left with {code}: {answer}')
        finished(target, goal, target.progress(target.home/'begun') if resumed else 0)
        return outcome + ', a traceback of TensorBoard'*process.curves
    for n in attack.every(calls, step): yield f'call {n} of {calls}', partial(attempt, n)


def usual(target):
    "How long an undisturbed job takes, in seconds, at this moment."
    goal, since = begun(target), time.monotonic()
    undisturbed(target, WORK, goal)
    return time.monotonic() - since


def left_alone(attack, processes):
    "The ranks without the one that was killed: they end, or are ended as torchrun does it."
    for process in processes:
        itself = process.waited(5)
        attack.count('ranks that ended by themselves', itself)
        attack.count('ranks that waited for the killed one', not itself)
        process.kill()
        process.ended(alone=False)


def killed_at_random(attack, target, kills):
    "Attempts, each of one job that is killed at random moments until it has come to its end."
    def attempt(expected):
        goal, least = begun(target), 0
        while attack.count('kills', 0) < kills:
            processes = group(target, WORK, goal)
            victim = processes.pop(attack.chance.randrange(len(processes)))
            victim.waited(attack.chance.uniform(0, 1.1*expected))
            victim.kill()
            if victim.ended(alone=False)[0] == 0:  # too late
                for process in processes: process.ended()
                break
            left_alone(attack, processes)
            attack.count('kills')
            if torn := target.torn(WORK, least): raise Fault(torn)
            least = target.progress(WORK)
        finished(target, goal, least)
        return 'jobs'
    while attack.count('kills', 0) < kills:
        yield f'{attack.count("kills", 0)} kills before', partial(attempt, usual(target))


def signalled(attack, target, n):
    "Attempts: SIGTERM or SIGINT at a random moment, sometimes twice, ends it in good order."
    expected = usual(target)
    def attempt():
        goal = begun(target)
        process, = group(target, WORK, goal)
        number = attack.chance.choice([signal.SIGTERM, signal.SIGINT])
        process.waited(attack.chance.uniform(0, 1.1*expected))
        for _ in range(attack.chance.choice([1, 1, 2])): process.kill(number)
        code, answer = process.ended()
        log = events(WORK)
        names, steps = [e['event'] for e in log], [e['step'] for e in log if e['event'] == 'step']
        within = steps and names[-1] != 'stop'
        if code != 0 and within: raise Fault(f'{number.name} in training: {code} {answer}')
        if code == 0 and names[-1] != 'stop': raise Fault(f'{answer}, and the log ends {names[-1]}')
        if code == 0 and [target.progress(WORK)] != steps[-1:]: raise Fault('the last step is lost')
        finished(target, goal, *steps[-1:])
        return answer.split()[0] if code == 0 else 'outside of training'
    for i in range(n): yield f'signal {i}', attempt


def damaged(attack, target, n):
    "Attempts: checkpoints are damaged; the newest whole one is used, or none, in one sentence."
    def attempt():
        goal = begun(target, True)
        attack.call, seal = damage.checkpoint(WORK, attack.chance)
        whole = [targets.step_in(p) for p in saved(WORK) if targets.whole(p)]
        code, answer = group(target, WORK, goal)[0].ended()
        if code == 1 and (seal or not whole): return attack.error(answer)
        used = targets.first_step(WORK)
        if code or not seal and used != max(whole, default=None):
            raise Fault(f'{whole} are whole: {code} {answer}, after {used}')
        if wrong := target.wrong(WORK, goal): raise Fault(f'after {used}, {wrong}')
        return f'step {used} used'
    for i in range(n): yield f'damage {i}', attempt


def in_the_way(attack, target):
    "Attempts: something odd stands where a job wants a file or a folder of its own."
    def attempt(resumed, name, make):
        goal = begun(target, resumed)
        path = WORK/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists(): path.rename(WORK.parent/'aside')
        make(path)
        code, answer = group(target, WORK, goal)[0].ended()
        if code == 1: return attack.error(answer)
        if code or answer != target.ends[goal]: raise Fault(f'left with {code}: {answer}')
        if not target.same(WORK, goal): raise Fault('done, but the result is another')
        return 'done'
    cases = [*product((False, True), target.files, ODD)]
    for i in attack.every(len(cases)):
        resumed, name, make = case = cases[i - 1]
        yield f'{make.__name__} as {name}' + ', resumed'*resumed, partial(attempt, *case)


def damaged_pictures(attack, target, n, complete):
    "Attempts: parts, or a finished set, are damaged; they are made anew, or it says so."
    def attempt():
        goal = begun(target, not complete)
        if complete: shutil.copytree(target.straight(goal), WORK)
        files = [p for p in WORK.rglob('*') if p.is_file() and p.stat().st_size
                 and (complete or p.parent.name == 'parts')]
        path, deed = attack.chance.choice(sorted(files)), attack.chance.choice(damage.KINDS)
        attack.call = f'{deed.__name__} {path.name}'
        deed(path, attack.chance)
        code, answer = group(target, WORK, goal)[0].ended()
        outcome = attack.error(answer) if code else 'made anew'
        if complete and code: return outcome
        if path.is_dir(): path.rmdir()  # as its reader would, who has read which is in the way
        finished(target, goal, calls=8)
        return outcome + ', then made anew'*bool(code)
    for i in range(n): yield f'damage {i}', attempt


def other_ranks(attack, n):
    "Attempts: one rank, two, and one again, with a kill in between or without."
    one, two = (Training(HOME/'one', r, buffer=False, microbatch=4, goals=(6, 8)) for r in (1, 2))
    def attempt():
        begun(one)
        first, second = sorted(attack.chance.sample(range(1, 8), 2))
        undisturbed(one, WORK, first)
        processes = group(two, WORK, second)
        processes[0].waited(attack.chance.uniform(0, 1))
        processes.pop(attack.chance.randrange(2)).kill()
        left_alone(attack, processes)
        undisturbed(two, WORK, second)
        return finished(one, 8) or 'same end'
    for i in range(n): yield f'ranks {i}', attempt
