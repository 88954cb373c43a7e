"The kinds of attack: each yields attempts, (label, () -> outcome), which raise Fault."
import errno
import os
import shutil
import signal
from collections import Counter
from functools import partial
from itertools import product

from . import damage, targets
from .process import (CHANGE, FAIL, FULL, GROW, HALF, HOME, KILL, LOOK, SHIM, SHORT, WORK, WRITE,
                      Fault, Process, group, undisturbed)
from .targets import Training, events, saved

CALLS = (('kill -9 before each change', KILL, CHANGE), ('kill -9 within each write', HALF, WRITE),
         ('each fourth write cut short', SHORT, WRITE, errno.EIO, 4),
         ('each fifth call fails with EIO', FAIL, CHANGE | LOOK, errno.EIO, 5),
         ('each second change fails with ENOSPC', FAIL, CHANGE, errno.ENOSPC, 2),
         ('disk full from each call on', FULL, GROW, errno.ENOSPC))
ODD = (os.mkfifo, os.mkdir, damage.loop, damage.dangling, damage.full_device, damage.empty,
       damage.deep_json)


def begun(target, resumed):
    "A folder for one attack, new or with a job that was begun, and the goal of the job."
    if resumed: shutil.copytree(target.home/'begun', WORK, symlinks=True)
    return WORK, target.resumed if resumed else target.new


def finished(target, folder, goal, least=0, calls=1):
    "See that nothing is torn, let the job go on, and compare its end with the undisturbed one."
    if torn := target.torn(folder, least): raise Fault(torn)
    answer = undisturbed(target, folder, goal, calls)
    if answer != target.ends[goal]: raise Fault(f'{answer} instead of {target.ends[goal]}')
    if wrong := target.wrong(folder, goal): raise Fault(wrong)


def at_calls(attack, target, resumed, deed, kinds, error=errno.EIO, step=1):
    "Attempts at each file call of a job, counted beforehand: to kill there, or to let it fail."
    folder, goal = begun(target, resumed)
    def armed(n): return Process(partial(target.work, folder, goal), (deed, n, error, kinds))
    armed(10**9).ended()
    calls = SHIM.attack_count()
    shutil.rmtree(WORK.parent)
    def attempt(n):
        folder, goal = begun(target, resumed)
        process = armed(n)
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
    shutil.rmtree(WORK.parent)
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
        process = Process(partial(target.work, folder, goal))
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
        whole = [targets.step_in(p) for p in saved(folder) if targets.whole(p)]
        process = Process(partial(target.work, folder, goal))
        code, answer = process.ended()
        if code == 1 and (seal or not whole): return attack.error(answer)
        used = targets.first_step(folder)
        if code or not seal and used != max(whole, default=None):
            raise Fault(f'{whole} are whole: {code} {answer}, after {used}')
        if wrong := target.wrong(folder, goal): raise Fault(f'after {used}, {wrong}')
        return f'step {used} used'
    for i in range(n): yield f'damage {i}', attempt


def in_the_way(attack, target, resumed):
    "Attempts: something odd stands where a job wants a file or a folder of its own."
    def attempt(name, make):
        folder, goal = begun(target, resumed)
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir(): path.rename(WORK.parent/'aside')
        else: path.unlink(missing_ok=True)
        make(path)
        process = Process(partial(target.work, folder, goal))
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
        folder, goal = WORK, 1
        shutil.copytree(target.straight(1) if complete else target.home/'begun', folder)
        files = [p for p in folder.rglob('*') if p.is_file() and p.stat().st_size
                 and (complete or p.parent.name == 'parts')]
        path, deed = attack.chance.choice(sorted(files)), attack.chance.choice(damage.KINDS)
        attack.call = f'{deed.__name__} {path.name}'
        deed(path, attack.chance)
        process = Process(partial(target.work, folder, goal))
        code, answer = process.ended()
        outcome = attack.error(answer) if code else 'made anew'
        if complete and code: return outcome
        if path.is_dir(): path.rmdir()  # as its reader would, who has read which is in the way
        finished(target, folder, goal, calls=8)
        return outcome + ', then made anew'*bool(code)
    for i in range(n): yield f'damage {i}', attempt


def other_ranks(attack, n):
    "Attempts: one rank, two, and one again, with a kill in between or without."
    one, two = (Training(HOME/'one', r, buffer=False, microbatch=4, goals=(6, 8))
                for r in (1, 2))
    if not one.home.is_dir(): one.prepare(undisturbed)
    def attempt():
        folder, cuts = WORK, sorted(attack.chance.sample(range(1, 8), 2))
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
