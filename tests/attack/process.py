"Forks of this process that do a job, may be armed, and say how they ended."
import ctypes
import os
import select
import signal
import socket
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

SHIM = ctypes.CDLL(os.environ['ATTACK_SHIM'])
SHIM.attack_last.restype = ctypes.c_char_p
HOME = Path(os.environ['ATTACK_SHIM']).parent
WORK = HOME/'work'/'run'  # the folder that is attacked
KILL, HALF, SHORT, FAIL, FULL = 1, 2, 3, 4, 5  # as in shim.c
CHANGE, WRITE, GROW, LOOK = 1, 2, 4, 8


class Fault(Exception):
    "What the library did wrong, in words."


class Process:
    "A fork of this process that does a job and leaves with its answer; both are `ended` later."
    def __init__(self,
        job,  # () -> words
        arm=None,  # (what to do, at which call, errno, kinds of calls), below WORK
        env=None,  # what is added to the environment
    ):
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
        found = 'Traceback' in text
        self.curves = found and ('curve' in text or 'tensorboard/' in text)  # why it ended
        if alone and found and not self.curves:
            raise Fault(f'a traceback: {text[-600:]}')
        return code, text.rpartition('\n@')[2]


def group(n, job):
    "Processes that form a group of ranks, if they are more than one."
    if n == 1: return [Process(job)]
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    return [Process(job, env=env | dict(RANK=str(rank), LOCAL_RANK=str(rank)))
            for rank in range(n)]


def undisturbed(target, folder, goal, calls=1):
    "Let a job come to its end; its answer. Damage to a part may take more than one call."
    job = partial(getattr(target, 'work', target), folder, goal)
    for _ in range(calls):
        ends = [p.ended() for p in group(getattr(target, 'ranks', 1), job)]
        if all(code == 0 for code, _ in ends): return ends[0][1]
    raise Fault(f'undisturbed, it does not come to its end: {ends}')
