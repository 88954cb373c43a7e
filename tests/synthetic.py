"""Made-up photographs: scenes of coloured shapes, in the layout of ImageNet's training set and with
its oddities."""
import colorsys
import io
import json
import tarfile
from pathlib import Path
from shutil import rmtree

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cfg_lessons.training import atomic_write

KINDS = ('disc', 'ring', 'triangle', 'square', 'frame', 'star', 'cross', 'flower',
         *'ABEHKRSTX247&?@#')
HUES = dict(red=0., yellow=.14, green=.38, blue=.6)  # the truth about colour: each as likely
TEXTURES = ('plain', 'striped', 'dotted')  # and about texture


def silhouette(
    kind,  # one of KINDS
    side,  # pixels
):
    "A shape or a letter, white on black, a greyscale picture (side, side)."
    mask = Image.new('L', (side, side))
    draw, middle = ImageDraw.Draw(mask), side/2
    if len(kind) == 1:
        bold = dict(stroke_width=side//20, anchor='mm')
        draw.text((middle, middle), kind, 255, ImageFont.load_default(.9*side), **bold)
        return mask
    corners = dict(disc=90, ring=90, triangle=3, square=4, frame=4, star=10, cross=8, flower=16)
    corners = corners[kind]
    notch = np.arange(corners) % 2 if kind in ('star', 'cross', 'flower') else 0
    angle = np.arange(corners)*2*np.pi/corners - np.pi/(4 if corners == 4 else 2)
    points = .47*side*(1 - .58*notch)*np.stack([np.cos(angle), np.sin(angle)])
    draw.polygon([*map(tuple, middle + points.T)], 255)
    if kind in ('ring', 'frame'): draw.polygon([*map(tuple, middle + .55*points.T)], 0)
    return mask


def scene(
    kind,  # one of KINDS
    seed,  # a whole number, or several
    size=(96, 72),  # width and height, in pixels
):
    "A picture of such a thing, a function of its arguments alone, and what is to be seen on it."
    rng = np.random.default_rng(seed)
    truth = dict(kind=kind, hue=str(rng.choice([*HUES])), texture=str(rng.choice(TEXTURES)),
                 angle=round(rng.uniform(-25, 25)), share=round(rng.uniform(.6, .9), 2))
    side = round(truth['share']*min(size))
    mask = silhouette(kind, 4*side).rotate(truth['angle'], Image.Resampling.BICUBIC)
    mask = mask.resize((side, side), Image.Resampling.BOX)
    place = [round(rng.uniform(.2, .8)*(s - side)) for s in size]
    color = lambda hue, s, v: np.array(colorsys.hsv_to_rgb(hue % 1, s, v))*255
    x, y = np.meshgrid(np.linspace(-1, 1, size[0]), np.linspace(-1, 1, size[1]))
    slope = rng.normal(0, .25, 2)
    light = 1 + slope[0]*x + slope[1]*y + rng.normal(0, .05, x.shape)
    ground = color(rng.random(), rng.uniform(.05, .35), rng.uniform(.25, .9))*light[..., None]
    thing = color(HUES[truth['hue']] + rng.normal(0, .015), .85, rng.uniform(.75, 1))
    u, v = np.mgrid[:side, :side]*(8*np.pi/side)
    waves = dict(plain=0*u, striped=np.sin(u + v) > 0, dotted=np.sin(u)*np.sin(v) > .3)
    body = thing*(1 - .6*waves[truth['texture']][..., None])
    picture = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    picture.paste(Image.fromarray(body.clip(0, 255).astype(np.uint8)), place, mask)
    return picture, truth


def hues_of(
    x,  # scenes in bytes, (N, 3, H, W), an array
):
    """Which hue the thing in each scene has, its number in HUES, (N,), as its vivid pixels vote; -1
    where none are vivid, as in a grey picture."""
    n, _, h, w = x.shape
    flat = Image.fromarray(np.ascontiguousarray(x.transpose(0, 2, 3, 1)).reshape(n*h, w, 3))
    hsv = np.asarray(flat.convert('HSV'), np.float32).reshape(n, h*w, 3)/255
    away = np.abs((hsv[..., :1] - np.array([*HUES.values()]) + .5) % 1 - .5)
    vivid = np.where(hsv[..., 1] > .6, hsv[..., 1]*hsv[..., 2], 0)
    votes = (vivid[..., None]*(away < .07)).sum(1)
    return np.where(votes.max(1) > 0, votes.argmax(1), -1)


def scenes(
    folder,  # where to; it gets train/n10000000/n10000000_0.JPEG and so on, and truth.json
    kinds=KINDS,  # a class each, in this order
    each=50,  # pictures a class
    seed=0,  # of the whole set
    archive=False,  # an archive of archives instead, ILSVRC2012_img_train.tar
    truncated=False,  # cut one file short
):
    "Write a set of scenes as ImageNet's training set comes; return the truth, file name -> facts."
    folder, truth = Path(folder), {}
    for c, kind in enumerate(kinds):
        wnid = f'n{10_000_000 + 37*c}'
        (folder/'train'/wnid).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            rng, name = np.random.default_rng((seed, c, i)), f'{wnid}_{i}.JPEG'
            picture, truth[name] = scene(kind, (seed, c, i, 1), tuple(rng.integers(70, 150, 2)))
            data = odd_file(picture, (c*each + i) % 50)
            if truncated and i == c == 1: data = data[:len(data)//2]
            (folder/'train'/wnid/name).write_bytes(data)
    with atomic_write(folder/'truth.json') as f: f.write(json.dumps(truth, indent=0).encode())
    if archive:
        with tarfile.open(folder/'ILSVRC2012_img_train.tar', 'w') as outer:
            for one in sorted((folder/'train').iterdir()):
                with tarfile.open(one.with_suffix('.tar'), 'w') as inner:
                    for path in sorted(one.iterdir()): inner.add(path, path.name)
                outer.add(one.with_suffix('.tar'), f'{one.name}.tar')
        rmtree(folder/'train')
    return truth


def odd_file(
    picture,  # a colour picture
    which,  # 0 to 4 for an oddity
):
    "The bytes of a JPEG file, or of what ImageNet has in its place now and then."
    raw, mode, exif = io.BytesIO(), {0: 'L', 1: 'CMYK'}.get(which, 'RGB'), Image.Exif()
    exif[274] = 6  # "turn me by a quarter"; nobody who prepares ImageNet does
    options = {3: dict(exif=exif), 4: dict(exif=b'Exif\0\0II*\0damaged')}.get(which, {})
    picture.convert(mode).save(raw, 'png' if which == 2 else 'jpeg', quality=90, **options)
    return raw.getvalue()
