"The full run in miniature, on made-up photographs: make a set, prepare it, train, generate, evaluate. For `make rehearsal`."
import argparse
import json
from pathlib import Path

import numpy as np

from cfg_lessons.engine import TrainConfig
from cfg_lessons.images import make_grid, open_images
from cfg_lessons.imagenet import evaluate_samples, generate_samples
from cfg_lessons.preparation import prepare
from cfg_lessons.recipes import Recipe, train_recipe
from cfg_lessons.training import atomic_write
from cfg_lessons.unet import UNetConfig
from synthetic import KINDS, hues_of, scenes

EIGHT = ('disc', 'square', 'star', 'ring', 'A', 'X', '4', '#')  # kinds that 16 x 16 pixels can show
SHORT = dict(flip=False, warmup_steps=50, ema_decay=(.995,), save_every=200, log_every=20)
SMALL = Recipe(UNetConfig(side=16, width=32, mults=(1, 1, 2), blocks=1, attention=(8,), head_width=32, num_classes=len(EIGHT)),
               TrainConfig(1200, 64, lr=2e-3, **SHORT), sampler_options=dict(mix=.3), steps=16)
ON_GPU = Recipe(UNetConfig(width=64, mults=(1, 2, 3), blocks=2, attention=(16,), num_classes=len(KINDS)),
                TrainConfig(6000, 128, lr=1e-3, bf16=True, channels_last=True, compile=True, **SHORT), sampler_options=dict(mix=.3), steps=32)


def gallery(folders, each=4):
    "A row for each folder of pictures, the first few of each class: a picture."
    y = open_images(folders[0])[1]
    shown = np.concatenate([np.flatnonzero(y == c)[:each] for c in np.unique(y)])
    return make_grid(np.concatenate([open_images(f)[0][shown] for f in folders]), len(shown), 1)


def rehearse(out, recipe=SMALL, kinds=EIGHT, w=(0., .3, 1., 2., 4.), images=1000, each=250, device='cpu'):
    """What is in `out` already is not made again; the records are returned. Beside them lie samples.png and hues.json: how many pictures show no
    hue, and each hue, of the real ones and of those for each weight."""
    out = Path(out)
    if not (out/'scenes'/'truth.json').exists(): scenes(out/'scenes', kinds, each)
    prepare(out/'scenes', out/'set', recipe.network.side, 'area')
    assert train_recipe(recipe, out/'set', out/'run', device=device) == 'done'
    folders = generate_samples(out/'run', out/'samples', w, images, batch_size=50, device=device)
    records = evaluate_samples(out/'samples', out/'set', out/'records', features='own', device=device)
    hues = {f.name: np.bincount(hues_of(open_images(f)[0]) + 1, minlength=5).tolist() for f in [out/'set', *folders]}
    with atomic_write(out/'hues.json') as f: f.write(json.dumps(hues).encode())
    with atomic_write(out/'samples.png') as f: gallery(folders).save(f, 'png')
    return records


def main():
    "Rehearse, print the numbers, and check that guidance trades variety for fidelity, as in the paper."
    parser = argparse.ArgumentParser('python tests/rehearsal.py', description=main.__doc__)
    parser.add_argument('--out', help='where everything goes; runs/rehearsal by itself')
    parser.add_argument('--gpu', action='store_true', help='24 classes at 64 x 64, on a GPU, compiled')
    asked = parser.parse_args()
    if asked.gpu: records = rehearse(asked.out or 'runs/rehearsal64', ON_GPU, KINDS, device='cuda')
    else: records = rehearse(asked.out or 'runs/rehearsal')
    first, last = records[0], records[-1]
    for r in records: print('  '.join(f'{name} {r[name]:.3f}' for name in ('w', 'fid_own', 'is_mean_own', 'precision_own', 'recall_own', 'accuracy_own')))
    for name, rises in dict(accuracy_own=True, is_mean_own=True, fid_own=True, recall_own=False).items():
        assert (last[name] > first[name]) == rises, f'{name} is {first[name]:.3f} without guidance and {last[name]:.3f} with w = {last["w"]:g}'


if __name__ == '__main__': main()
