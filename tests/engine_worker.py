"A small training for the tests of the engine, in this process, in forks of it, or by torchrun."
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

import torch
from tqdm.auto import tqdm

from cfg_lessons.checkpoints import checkpoints, read_tensors, verify
from cfg_lessons.diffusion import cosine
from cfg_lessons.config import TrainConfig
from cfg_lessons.engine import fit
from cfg_lessons.images import digits
from cfg_lessons.parallel import exit_on_error, process_group, rank_and_size
from cfg_lessons.training import denoising_loss
from cfg_lessons.unet import UNet, UNetConfig

DATA = digits()
TINY = UNetConfig(side=8, channels=1, width=32, mults=(1,), blocks=1, attention=(), head_width=32,
                  num_classes=10, dropout=.1)
BASE = dict(steps=12, batch_size=16, lr=1e-3, warmup_steps=4, save_every=3, log_every=1)


def paper_loss(denoiser, x, label, note):
    return denoising_loss(denoiser, cosine, x, label, .2, note=note)


def run(folder, config=None, at=None, only_rank=None, make=lambda: UNet(TINY), **rest):
    """Train. `at` says what happens in which step (counted from 0, or "each"): nan, term, kill,
    slow, spy, refuse, die_once, no_memory."""
    folder, calls = Path(folder), []
    def loss(denoiser, x, label, note):
        deed = (at or {}).get(str(start + len(calls))) or (at or {}).get('each')
        calls.append(1)
        value = rest.get('loss', paper_loss)(denoiser, x, label, note)
        if deed and only_rank in (None, rank_and_size()[0]): value = DEEDS[deed](folder, x, value)
        return value
    with process_group():
        torch.manual_seed(0)
        start = max((int(p.name[5:]) for p in checkpoints(folder) if not verify(p)), default=0)
        others = {k: v for k, v in rest.items() if k not in ('data', 'loss')}
        config = TrainConfig(**BASE | (config or {}))
        return fit(folder, make(), loss, rest.get('data', DATA), config,
                   **others)


def spy(folder, x, value):
    with open(folder/f'seen{rank_and_size()[0]}', 'a') as f: f.write(json.dumps(x.tolist()) + '\n')
    return value


def refuse(folder, x, value): raise ValueError(f'rank {rank_and_size()[0]} does not like it')


def die_once(folder, x, value):
    if not (folder/'died').exists():
        (folder/'died').touch()
        os._exit(3)
    return value


def no_memory(folder, x, value): raise torch.OutOfMemoryError('CUDA out of memory. Tried to '
                                                              'allocate')


DEEDS = dict(nan=lambda folder, x, value: value*float('nan'),
             inf=lambda folder, x, value: value.detach()*float('inf') + 0*value,
             term=lambda folder, x, value: os.kill(os.getpid(), signal.SIGTERM) or value,
             slow=lambda folder, x, value: time.sleep(.02) or value,
             spy=spy, refuse=refuse, die_once=die_once, no_memory=no_memory)
def nan_and_term(folder, x, value): return DEEDS['term'](folder, x, DEEDS['nan'](folder, x, value))
DEEDS['nan_and_term'] = nan_and_term


def start(n, f, *args, **kwargs):
    """Run f in n processes that form a group, quickly: forks, which have everything imported
    already."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    pids = []
    for rank in range(n):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 1
        try:
            torch.set_num_threads(1)
            tqdm.set_lock(threading.RLock())  # its own: one who is killed must not keep all others'
            group = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=n, MASTER_ADDR='127.0.0.1',
                         MASTER_PORT=port)
            if n > 1: os.environ.update({k: str(v) for k, v in group.items()})
            with exit_on_error(): f(*args, **kwargs)
            code = 0
        except SystemExit as e: os.write(2, f'{e.code}\n'.encode()*isinstance(e.code, str))
        except BaseException: os.write(2, traceback.format_exc().encode())
        finally: os._exit(code)
    return pids


def ends(pids): return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def trained(n, *args, **kwargs):
    "Train in n processes and see that all end well."
    assert ends(start(n, run, *args, **kwargs)) == [0]*n


def tensors_of(path):
    "Everything in a checkpoint, name -> tensor."
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    saved = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    found = {k: torch.empty(tuple(m.size), dtype=m.properties.dtype) for k, m in saved.items()}
    read_tensors(path, found)
    return found


def apart(a, b):
    "How far the newest checkpoints of two runs are apart at most, over all that they hold."
    a, b = checkpoints(a)[0], checkpoints(b)[0]
    assert a.name == b.name and not verify(a) and not verify(b)
    a, b = tensors_of(a), tensors_of(b)
    assert a.keys() == b.keys() and len(a) > 50
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


if __name__ == '__main__':
    torch.set_num_threads(1)
    with exit_on_error(): run(sys.argv[1], **json.loads(sys.argv[2]))
