"Forks of this process that do a job, may be armed, and say how they ended."
import ctypes
import os
import re
import select
import signal
import socket
import sys
import threading
import traceback
from functools import partial
from pathlib import Path

SHIM = ctypes.CDLL(os.environ['ATTACK_SHIM'])
SHIM.attack_last.restype = ctypes.c_char_p
HOME = Path(os.environ['ATTACK_SHIM']).parent
WORK = HOME/'work'/'run'  # the folder that is attacked
KILL, HALF, SHORT, FAIL, FULL = 1, 2, 3, 4, 5  # as in shim.c
CHANGE, WRITE, GROW, LOOK = 1, 2, 4, 8
CURVES = '\nTensorBoard has failed in its thread\n'
MACHINE = WORK, WORK.parent, HOME, Path(__file__).parents[2], sys.prefix, sys.base_prefix


class Fault(Exception):
    "What the library did wrong, in words."


def named(text):
    "Words in which files are named below the run, and no folder of this machine is."
    return re.sub('|'.join(re.escape(f'{folder}/') for folder in MACHINE), '', text)


def thread_failed(args):
    """A traceback, as ever, but for TensorBoard's thread, whose disk may be full: its traceback
    would be torn, for the process may leave meanwhile."""
    if not type(args.thread).__module__.startswith('tensorboard.'): threading.__excepthook__(args)
    else: os.write(2, CURVES.encode())


class Process:
    "A fork of this process that does a job and leaves with its answer; both are `ended` later."
    def __init__(self,
        job,  # () -> words
        arm=None,  # (what to do, at which call, errno, kinds of calls), below WORK
        env={},  # what is added to the environment
    ):
        SHIM.attack_clear()
        self.words = os.memfd_create('words')
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the fork can catch it
        self.pid = os.fork()
        if not self.pid:
            code = 2
            try: code = self._inside(job, arm, env)
            finally: os._exit(code)  # whatever comes, a fork goes nowhere else
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        self.fd = os.pidfd_open(self.pid)

    def _inside(self, job, arm, env):
        for fd in (1, 2): os.dup2(self.words, fd)
        os.environ |= dict(PATH='') | env  # without git, whose answer is not of interest here
        threading.excepthook = thread_failed
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            if arm: SHIM.attack_arm(*arm, str(WORK).encode())
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

    def ended(self, alone=True):
        """Its exit status, or minus the signal, and its answer. Raises Fault if it hangs or, when
        no other rank was killed, if it has written a traceback."""
        hangs = not self.waited(120)
        if hangs: self.kill()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        text = named(os.pread(self.words, 1 << 24, 0).decode(errors='replace'))
        for fd in (self.fd, self.words): os.close(fd)
        if hangs: raise Fault(f'hangs; it said: {text[-300:]}')
        self.curves, text = CURVES in text, text.replace(CURVES, '')
        if alone and 'Traceback' in text: raise Fault(f'a traceback: {text[-600:]}')
        return code, text.rpartition('\n@')[2]


def group(target, folder, goal, arm=None, **how):
    "Processes that do a target's job: one, or a group of ranks."
    job = partial(target.work, folder, goal, **how)
    if target.ranks == 1: return [Process(job, arm)]
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(WORLD_SIZE=str(target.ranks), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    return [Process(job, arm, env | dict(RANK=str(rank), LOCAL_RANK=str(rank)))
            for rank in range(target.ranks)]


def undisturbed(target, folder, goal, calls=1, **how):
    "Let a job come to its end; its answer. Damage to a part may take more than one call."
    for _ in range(calls):
        ends = [p.ended() for p in group(target, folder, goal, **how)]
        if all(code == 0 for code, _ in ends): return ends[0][1]
    raise Fault(f'undisturbed, it does not come to its end: {ends}')
