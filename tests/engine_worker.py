"A small training run for test_distributed.py: `python engine_worker.py FOLDER '{\"plan\": {...}, \"at\": {\"5\": \"nan\"}}'`."
import json
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from cfg_lessons.diffusion import cosine
from cfg_lessons.distributed import Engine, Plan, in_one_voice, joined, keep_training
from cfg_lessons.images import digits
from cfg_lessons.training import denoising_loss
from cfg_lessons.unet import DIGITS, UNet

DATA = digits()


def run(folder, plan=None, at=None, only_rank=None, settings=None, alone=False):
    "Train; `at` says what happens in which step: nan, term, kill, die_once, slow, spy, refuse, bad_each; `alone`, as a program of its own."
    calls = [-(int(os.environ.get('WORLD_SIZE', 1)) > 1)]  # many processes take a step first that is thrown away
    def loss(denoiser, x, label, note):
        step = engine.start + calls[0]//engine.plan.parts
        calls[0] += 1
        if calls[0] == 0: return denoising_loss(denoiser, cosine, x, label, .2)
        deed = (at or {}).get(str(step)) or (at or {}).get('each')
        if only_rank not in (None, world.rank): deed = None
        if deed in ('term', 'nan_and_term'): os.kill(os.getpid(), signal.SIGTERM)
        if deed == 'kill': os.kill(os.getpid(), signal.SIGKILL)
        if deed == 'slow': time.sleep(.02)
        if deed == 'refuse': raise ValueError(f'rank {world.rank} does not like it')
        if deed == 'spy':
            with open(Path(folder, f'seen{world.rank}'), 'a') as f: f.write(json.dumps([step, x.sum((1, 2, 3)).tolist()]) + '\n')
        if deed == 'die_once' and not Path(folder, 'died').exists():
            Path(folder, 'died').touch()
            os._exit(3)
        value = denoising_loss(denoiser, cosine, x, label, .2, note=note)
        return value*float('nan') if deed in ('nan', 'nan_and_term') else value
    with joined() as world, in_one_voice(world) if alone else nullcontext():
        torch.manual_seed(0)
        options = dict(steps=12, batch_size=16, lr=1e-3, warm=4, save_every=3, log_every=1) | (plan or {})
        engine = Engine(folder, UNet(DIGITS), Plan(**options), world, settings)
        def each(step, net):
            if 'bad_each' in (at or {}).values(): raise RuntimeError('the pictures could not be drawn')
        ended = keep_training(engine, loss, DATA, each)
        Path(folder, f'rank{world.rank}').write_text(str([p.double().sum().item() for p in engine.net.parameters()]))
        return ended


if __name__ == '__main__':
    torch.set_num_threads(1)
    run(sys.argv[1], **json.loads(sys.argv[2]), alone=True)
