"What the library promises as a whole; each piece is checked in the notebook that teaches it."
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from cfg_lessons.classifier_free import classifier_free
from cfg_lessons.diffusion import cosine
from cfg_lessons.images import batches, digits, scaled
from cfg_lessons.mixtures import draw, exact, three_gaussians
from cfg_lessons.networks import MLP, in_bf16
from cfg_lessons.sampling import ancestral, clipped, ddim, heun, last, multistep, sample, seeded
from cfg_lessons.training import EMA, denoising_loss, load, train
from cfg_lessons.unet import DIGITS, UNet

ROOT = Path(__file__).resolve().parent.parent
BARE = ['diffusion', 'mixtures', 'sampling', 'networks', 'training', 'classifier_free', 'images', 'unet', 'settings']
devices = ['cpu'] + ['cuda']*torch.cuda.is_available() + ['mps']*torch.backends.mps.is_available()


def python(code, **env):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT, env=os.environ | env)


def test_bare_machine():
    "The library imports where only torch, numpy, pillow, tqdm and safetensors exist."
    blocked = ['fastcore', 'nbdev', 'sklearn', 'scipy', 'matplotlib', 'ipywidgets', 'IPython', 'jupyterlab', 'torchvision',
               'torch_fidelity', 'execnb', 'nbformat', 'packaging.requirements']
    code = f"import sys\nfor b in {blocked!r}: sys.modules[b] = None\n" + '\n'.join(f'import cfg_lessons.{m}' for m in BARE)
    done = python(code)
    assert done.returncode == 0, done.stderr


def test_import_needs_no_settings(tmp_path):
    "Nothing is read at import: a broken settings file does not stop the library."
    (tmp_path/'settings.ini').write_text('nonsense')
    done = subprocess.run([sys.executable, '-c', '\n'.join(f'import cfg_lessons.{m}' for m in BARE)], cwd=tmp_path,
                          capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('device', devices)
@pytest.mark.parametrize('step', [ddim, heun, partial(ancestral, mix=.3)], ids=['ddim', 'heun', 'ancestral'])
def test_devices(device, step):
    "Tensors decide the device: exact and learnt denoisers, guided and clipped, in float32."
    torch.manual_seed(0)
    z, label = torch.randn(8, 2, device=device), torch.arange(8, device=device) % 3
    for denoiser in (exact(three_gaussians()), MLP(2, 3, width=32).to(device), in_bf16(MLP(2, 3, width=32).to(device))):
        x = last(sample(clipped(classifier_free(denoiser, .5), 3.), z, label, cosine(torch.linspace(1, 0, 9)), step))
        assert x.device.type == device and x.dtype == torch.float32 and x.isfinite().all()
    assert last(multistep(exact(three_gaussians()), z, label, cosine(torch.linspace(1, 0, 9)))).device.type == device


@pytest.mark.parametrize('device', devices)
def test_training_devices(device):
    net = UNet(DIGITS).to(device)
    ema, opt = EMA(net), torch.optim.AdamW(net.parameters(), 1e-3)
    stream = scaled(batches(*digits(), 16, device=device))
    steps = train(partial(denoising_loss, net, cosine), opt, (b for b, _ in zip(stream, range(2))), ema=ema)
    assert all(loss.device.type == device and loss.isfinite() for _, loss in steps)


def test_batch_size_does_not_matter():
    "Digit i is the same in a batch of 12 and in batches of 5, 1 and 6."
    net = UNet(DIGITS).eval()
    load(ROOT/'data'/'checkpoints'/'digits.safetensors', net)
    def generate(index):
        noise, label = seeded(3, index), torch.tensor([i % 10 for i in index])
        step = partial(ancestral, mix=.3, noise=noise)
        return last(sample(clipped(classifier_free(net, 1.)), noise(torch.empty(len(index), 1, 8, 8)), label,
                           cosine(torch.linspace(1, 0, 17)), step))
    together = generate(range(12))
    apart = torch.cat([generate(range(0, 5)), generate([5]), generate(range(6, 12))])
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-3)


def test_checkpoint_is_small_and_says_how_it_was_made():
    path = ROOT/'data'/'checkpoints'/'digits.safetensors'
    notes = load(path, UNet(DIGITS))
    assert path.stat().st_size < 3e6 and notes['command'] == 'make checkpoints' and int(notes['steps']) > 1000


def test_stopped_training_goes_on_as_if_it_had_not():
    "U-Net with dropout, EMA, warm data order: 3 + 3 steps are 6 steps, bit for bit (optimizer kept in memory)."
    def run(stops):
        torch.manual_seed(0)
        net = UNet(DIGITS)
        opt, ema, begin = torch.optim.AdamW(net.parameters(), 1e-3), EMA(net, .99), 0
        for end in [*stops, 6]:
            data = (b for b, _ in zip(scaled(batches(*digits(), 8, seed=2, start=begin)), range(end - begin)))
            for _ in train(partial(denoising_loss, net, cosine), opt, data, ema=ema, seed=1, start=begin): pass
            begin = end
        return torch.cat([p.flatten() for p in ema.net.parameters()])
    assert run([]).equal(run([3]))


def test_wrong_guidance_is_caught():
    "The identities that pin down guidance fail for every one of these near misses."
    d = exact(three_gaussians())
    z, logsnr, label = torch.randn(9, 2).double(), torch.linspace(-3, 3, 9).double(), torch.arange(9) % 3
    c, u = d(z, logsnr, label), d(z, logsnr, torch.full_like(label, -1))
    right = lambda f: (torch.equal(f(c, u, 0.), c) and torch.equal(f(c, u, -1.), u)
                       and torch.allclose(f(c, u, 2.) - c, 2*(c - u)))
    assert right(lambda c, u, w: classifier_free(d, w)(z, logsnr, label))
    wrong = [lambda c, u, w: w*c + (1 - w)*u, lambda c, u, w: (1 + w)*c + w*u, lambda c, u, w: (1 + w)*u - w*c,
             lambda c, u, w: c + w*u, lambda c, u, w: c, lambda c, u, w: (1 + w)*c - w*c]
    assert not any(right(f) for f in wrong)


def test_readme_example_runs():
    "The code in the README runs as it stands."
    blocks = re.findall(r'```python\n(.*?)```', (ROOT/'README.md').read_text(), re.S)
    assert blocks, 'README.md has no Python example'
    for code in blocks:
        done = python(code, OMP_NUM_THREADS='1', MPLBACKEND='agg')
        assert done.returncode == 0, done.stderr


def test_readme_and_index_name_every_chapter():
    for page in (ROOT/'README.md', ROOT/'nbs'/'index.ipynb'):
        text = page.read_text()
        for p in (ROOT/'nbs').glob('[019]*.ipynb'):
            assert p.name in text, f'{page.name} does not mention {p.name}'
        for link in re.findall(r'\]\(((?!http)[^)#\s]+)\)', text):
            assert (page.parent/link).exists(), f'{page.name} links to {link}, which does not exist'


def test_doctor():
    done = python('import sys; from cfg_lessons.doctor import main; sys.exit(main())')
    assert done.returncode == 0, done.stdout
    sick = python('import sys; from cfg_lessons.doctor import main; sys.exit(main())', CFG_LESSONS_DEVICE='abacus')
    assert sick.returncode == 1 and 'FAIL' in sick.stdout and 'abacus' in sick.stdout


def test_a_real_kernel_runs_a_notebook():
    "The path of JupyterLab: a kernel named python3, started as the server starts it, imports the library and draws."
    import nbformat
    from nbclient import NotebookClient
    nb = nbformat.read(ROOT/'nbs'/'90_plotting.ipynb', 4)
    client = NotebookClient(nb, timeout=120, kernel_name='python3', resources={'metadata': {'path': str(ROOT/'nbs')}})
    client.execute()
    assert any('<img alt' in ''.join(o.get('data', {}).get('text/html', '')) for c in nb.cells for o in c.get('outputs', []))


def test_jupyterlab_opens_the_book(tmp_path):
    "The server of `make lab` comes up and serves the index, from this environment."
    import json
    import socket
    import time
    import urllib.request
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    args = ['--no-browser', f'--port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=t', '--ip=127.0.0.1']
    server = subprocess.Popen(['make', '--no-print-directory', '-o', '.venv/.ready', 'lab', f'ARGS={" ".join(args)}'], cwd=ROOT,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                              env=os.environ | {'JUPYTER_CONFIG_DIR': str(tmp_path), 'JUPYTER_RUNTIME_DIR': str(tmp_path)})
    get = lambda path: urllib.request.urlopen(f'http://127.0.0.1:{port}/{path}?token=t', timeout=5).read()
    try:
        for _ in range(120):
            try: listing = json.loads(get('api/contents'))
            except OSError: time.sleep(.5)
            else: break
        assert 'index.ipynb' in [f['name'] for f in listing['content']]
        assert b'JupyterLab' in get('lab/tree/index.ipynb')
    finally:
        import signal
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def test_help_lists_every_target():
    makefile = (ROOT/'Makefile').read_text()
    targets = set(re.search(r'^\.PHONY: (.*)$', makefile, re.M).group(1).split())
    shown = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True).stdout
    assert targets == set(re.findall(r'^make (\S+)', shown, re.M))


def test_pins_admit_every_python_that_we_promise():
    "A pin that wants a later 3.11 sends pip into a search without end on a machine with 3.11.2."
    from importlib.metadata import distributions
    from packaging.requirements import Requirement
    pins = [Requirement(line) for line in re.sub(r'#.*', '', (ROOT/'constraints.txt').read_text()).split('\n') if line.strip()]
    name_of = lambda name: re.sub('[-_.]+', '-', name).lower()
    asks = {name_of(d.metadata['Name']): d.metadata.get('Requires-Python') or '' for d in distributions()}
    wants = {p.name: asks[name_of(p.name)] for p in pins if name_of(p.name) in asks}  # some are for one Python only
    assert len(wants) > 100
    refused = [f'{name} wants Python {want}' for name, want in wants.items()
               if not all(Requirement(f'python{want}').specifier.contains(v) for v in ('3.11.0', '3.12.0'))]
    assert not refused, f'{refused}: pin an older version in constraints.txt.'
