"""Does what users call work on a GPU, without waiting for it? It runs on fake ones (fake_gpu.py);
and faults that are put into the package are found."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import fake_gpu
import pytest
import torch

HERE = Path(__file__).resolve().parent
PACKAGES = Path(torch.__file__).resolve().parent.parent


def build(folder):
    "Compile the fake CUDA runtime; its path, or why that cannot be done, in a sentence."
    if not torch.version.cuda: return None, 'This PyTorch was built without CUDA.'
    headers = [*PACKAGES.glob('nvidia/*/include'), *PACKAGES.glob('triton/backends/nvidia/include')]
    if not any((p/'driver_types.h').exists() for p in headers):
        return None, f'There is no driver_types.h of CUDA below {PACKAGES}.'
    if not shutil.which('cc'): return None, 'There is no C compiler cc.'
    path = folder/'libcuda.so.1'
    done = subprocess.run(['cc', '-shared', '-fPIC', '-Wl,-soname,libcuda.so.1', '-o', path,
                           *(f'-I{p}' for p in headers), HERE/'fake_cuda.c'], capture_output=True)
    return path, done.stderr.decode() if done.returncode else ''


@pytest.fixture(scope='session')
def found(tmp_path_factory):
    "What was found in each scene and with each fault."
    folder = tmp_path_factory.mktemp('gpu')
    library, why_not = build(folder)
    if why_not: (pytest.fail if os.environ.get('CI') else pytest.skip)(why_not)
    env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE', 'WANDB_PROJECT')}
    env |= dict(LD_PRELOAD=str(library), FAKE_GPUS='4', OMP_NUM_THREADS='1',
                PYTHONPATH=str(HERE.parent))
    done = subprocess.run([sys.executable, HERE/'fake_gpu.py', folder/'found.json'], env=env,
                          capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder/'found.json').read_text())


@pytest.mark.parametrize('scene', fake_gpu.SCENES)
def test_nothing_is_wrong(found, scene):
    assert found[scene]['wrong'] == []


@pytest.mark.parametrize('scene', fake_gpu.SCENES)
def test_nothing_is_warned_of(found, scene):
    assert found[scene]['told'] == []


@pytest.mark.parametrize('name', sorted(fake_gpu.WAITS.keys() | fake_gpu.COPIES.keys()))
def test_each_exception_is_needed(found, name):
    assert name in {n for scene in fake_gpu.SCENES for n in found[scene]['names']}


@pytest.mark.parametrize('name', fake_gpu.FAULTS)
def test_a_fault_is_found(found, name):
    "It is found, and for the right reason."
    wrong = found[name]['wrong']
    assert any(fake_gpu.FAULTS[name].says in w for w in wrong), wrong
