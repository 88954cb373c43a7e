"""Networks of others: their tables and files, opened by name, drawn with by the commands, and
refused in one sentence."""
import copy
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cfg_lessons.classifier_free import extrapolate, unconditional
from cfg_lessons.diffusion import NULL
from cfg_lessons.images import open_images
from cfg_lessons.costs import sampling_bill
from cfg_lessons.imagenet import cfg_cost, generate_samples, open_network
from cfg_lessons.pretrained import (TableStep, dit, eps_only, open_pipeline, openai_levels,
                                    reads_as, released, scheduler_levels, scheduler_steps,
                                    stable_diffusion)
from cfg_lessons.sampling import per_example_noise
from cfg_lessons.training import load, save
from cfg_lessons.unet import DIGITS, UNet

diffusers = pytest.importorskip('diffusers')
ROOT = Path(__file__).parents[1]


def small_dit(classes=10, **more):
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8,
                                          in_channels=4, out_channels=8, num_layers=1,
                                          sample_size=4, patch_size=2, num_embeds_ada_norm=classes,
                                          norm_type='ada_norm_zero', norm_elementwise_affine=False,
                                          **more).eval()
    for p in net.parameters(): nn.init.normal_(p, std=.05)
    return net


def small_vae(channels=4):
    return diffusers.AutoencoderKL(down_block_types=('DownEncoderBlock2D',)*2,
                                   up_block_types=('UpDecoderBlock2D',)*2,
                                   block_out_channels=(32, 32), latent_channels=channels,
                                   sample_size=8).eval()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A DiT as diffusers saves one."
    folder = tmp_path_factory.mktemp('saved')/'dit'
    diffusers.DiTPipeline(small_dit(), small_vae(),
                          diffusers.DDIMScheduler(1000, clip_sample=False)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize('schedule', ['cosine', 'linear'])
def test_steps_of_a_table(schedule):
    """Exact at every row, the end beyond the ends, in proportion between rows; also after a cast to
    16 bits and a life without memory."""
    levels = openai_levels(schedule)
    step, logsnr = TableStep(levels), torch.linspace(-22, 22, 500)
    assert step(torch.from_numpy(levels)).equal(torch.arange(1000.))
    assert step(torch.tensor([99., -99.])).tolist() == [0., 999.]
    torch.testing.assert_close(step(torch.from_numpy((levels[1:] + levels[:-1])/2)),
                               torch.arange(999.) + .5, rtol=0, atol=2e-3)
    assert copy.deepcopy(step).bfloat16()(logsnr).equal(step(logsnr))
    with torch.device('meta'): moved = TableStep(levels)
    assert moved.to_empty(device='cpu')(logsnr).equal(step(logsnr))


@pytest.mark.parametrize(
    'make, words',
    [(lambda: TableStep(openai_levels('linear')[::-1]), 'each below the last'),
     (lambda: openai_levels('quadratic'), 'cosine'),
     (lambda: openai_levels('linear', 10), 'too few'),
     (lambda: scheduler_levels(diffusers.FlowMatchEulerDiscreteScheduler()), 'has no table'),
     (lambda: released('512x512_diffusion'), 'not among')],
    ids=['turned', 'no such', 'short', 'flow', 'unpublished'])
def test_tables_that_are_none(make, words):
    with pytest.raises(ValueError, match=words): make()


def test_tables_of_schedulers():
    """Theirs is summed in float32; levels rise and end without noise; pure noise is where we have
    put it."""
    linear = diffusers.DDIMScheduler(1000, beta_start=1e-4, beta_end=.02, beta_schedule='linear')
    np.testing.assert_allclose(scheduler_levels(linear), openai_levels('linear'), atol=2e-3)
    levels = scheduler_steps(linear, 50)
    assert (levels.diff() > 0).all() and levels[-1].isinf() and len(levels) == 51
    zero = diffusers.DDIMScheduler(1000, rescale_betas_zero_snr=True, timestep_spacing='trailing',
                                   prediction_type='v_prediction')
    assert abs(scheduler_steps(zero, 10)[0] + 24*math.log(2)) < 1e-6


def test_a_file_under_openais_names(tmp_path):
    """In 16 bits, read and written back; guided by the network that was trained without classes,
    which is not given one."""
    torch.manual_seed(0)
    relative, table = replace(DIGITS, null_row=False, out_channels=2,
                              new_order=False), openai_levels('linear')
    theirs, ours, separate = UNet(relative), UNet(relative, TableStep(table)).eval(), UNet(
        replace(relative, num_classes=0), TableStep(table)).eval()
    for p in (*theirs.parameters(), *separate.parameters()): nn.init.normal_(p, std=.1)
    path = tmp_path/'8x8_diffusion.pt'
    torch.save(theirs.half().state_dict(), path)
    load(path, ours)
    for other, words in [(dict(num_classes=12), r'label_emb.weight is \(\(10, 128'),
                         (dict(blocks=2), 'is missing')]:
        with pytest.raises(ValueError, match=words): load(path, UNet(replace(relative, **other)))
    save(path, ours)
    again = torch.load(path, weights_only=True)
    assert list(again) == list(theirs.state_dict())
    assert all(again[k].equal(v.float()) for k, v in theirs.state_dict().items())
    z, logsnr, label = torch.randn(2, 1, 8, 8), torch.zeros(2), torch.tensor([3, 7])
    with pytest.raises(ValueError, match='no row for NULL'):
        ours(z, logsnr, torch.tensor([3, NULL]))
    with torch.no_grad():
        guided = extrapolate(eps_only(ours), unconditional(eps_only(separate)), 2.)(z, logsnr,
                                                                                    label)
        wanted = 3*ours(z, logsnr, label) - 2*separate(z, logsnr, torch.full((2,), NULL))
    torch.testing.assert_close(guided, wanted[:, :1])


def test_a_dit_opened_by_name_is_the_one_that_was_saved(saved):
    scheduler = diffusers.DDIMScheduler(1000, clip_sample=False)
    at = torch.randn(2, 4, 4, 4), torch.tensor([-3., 2.]), torch.tensor([3, NULL])
    with torch.no_grad():
        torch.testing.assert_close(
            open_pipeline(saved).denoiser(*at),
            dit(small_dit(), small_vae(), scheduler).denoiser(*at))


def small_stable_diffusion(scheduler):
    "A pipeline of diffusers' own classes, with a tokenizer that spells."
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
    letters = 'abcdefghijklmnopqrstuvwxyz'
    signs = [*letters, *(f'{s}</w>' for s in letters), '<|startoftext|>', '<|endoftext|>']
    torch.manual_seed(1)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(vocab_size=54, hidden_size=32, intermediate_size=37, num_hidden_layers=2,
                       num_attention_heads=4, max_position_embeddings=16, bos_token_id=52,
                       eos_token_id=53, pad_token_id=53)).eval()
    unet = diffusers.UNet2DConditionModel(sample_size=8, block_out_channels=(32, 64),
                                          layers_per_block=1, cross_attention_dim=32,
                                          attention_head_dim=8, norm_num_groups=8,
                                          down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'),
                                          up_block_types=('UpBlock2D',
                                                          'CrossAttnUpBlock2D')).eval()
    tokenizer = CLIPTokenizer(vocab={
        s: i for i, s in enumerate(signs)
    }, merges=[], model_max_length=16)
    return diffusers.StableDiffusionPipeline(small_vae(), text_encoder, tokenizer, unet, scheduler,
                                             None, None, requires_safety_checker=False)


SCALED = dict(beta_start=.00085, beta_end=.012, beta_schedule='scaled_linear', steps_offset=1,
              set_alpha_to_one=False)
TEXTS = ['a red fox', 'a house', 'blurry']


@pytest.fixture(scope='module')
def saved_text(tmp_path_factory):
    """A Stable Diffusion as the hub has it: with the scheduler that asks at one level twice. And
    texts."""
    folder = tmp_path_factory.mktemp('text')
    small_stable_diffusion(diffusers.PNDMScheduler(1000, skip_prk_steps=True,
                                                   **SCALED)).save_pretrained(folder/'sd')
    (folder/'prompts.txt').write_text('\n'.join(TEXTS) + '\n\n')
    return folder


@pytest.mark.parametrize('negative', [False, True])
def test_the_command_draws_what_texts_say_as_diffusers_does(saved_text, tmp_path, negative):
    """cfg-generate with --prompts against StableDiffusionPipeline itself, from the same noise, to a
    grey level."""
    np.save(tmp_path/'labels.npy', [0, 1])
    how = dict(guidance='negative', guidance_options=dict(label=2)) if negative else {}
    made, = generate_samples(str(saved_text/'sd'), tmp_path/'out', w=(3.,),
                             labels=str(tmp_path/'labels.npy'), steps=10, sampler='ddim',
                             limit='none', prompts=str(saved_text/'prompts.txt'), device='cpu',
                             **how)
    ours, y, notes = open_images(made)
    pipe = small_stable_diffusion(diffusers.DDIMScheduler(1000, clip_sample=False, **SCALED))
    pipe.set_progress_bar_config(disable=True)
    noise = per_example_noise(0, range(2))(torch.empty(2, 4, 8, 8))
    theirs = pipe(TEXTS[:2], negative_prompt=TEXTS[2:]*2 if negative else None, guidance_scale=4.,
                  num_inference_steps=10, latents=noise, output_type='np').images
    assert np.abs(ours.transpose(0, 2, 3, 1) - 255*theirs).max() <= 1 and ours.std() > 5
    assert notes['made']['trained_on'] == 'text' and len(notes['made']['prompts_sha256']) == 64
    assert y.tolist() == [0, 1]


def test_texts_that_cannot_be_drawn(saved_text, saved, tmp_path):
    """No texts, texts for a network of classes, an empty file, no file: one sentence each, and
    nothing written."""
    (tmp_path/'empty.txt').write_text(' \n')
    for network, prompts, words in [(saved_text/'sd', '', 'give it prompts'),
                                    (saved, saved_text/'prompts.txt', 'reads no prompts'),
                                    (saved_text/'sd', tmp_path/'empty.txt', 'is empty'),
                                    (saved_text/'sd', tmp_path/'none.txt', 'cannot be read')]:
        with pytest.raises(ValueError, match=words):
            generate_samples(str(network), tmp_path/'out', prompts=str(prompts), device='cpu')
    assert not (tmp_path/'out').exists()


@pytest.mark.parametrize('kind', ['classes', 'texts'])
def test_two_processes_draw_as_one(saved, saved_text, tmp_path, kind):
    """torchrun with a saved pipeline, guided, in batches that do not divide the pictures: byte for
    byte what one process draws."""
    network, how = (saved,
                    {}) if kind == 'classes' else (saved_text/'sd',
                                                   dict(prompts=str(saved_text/'prompts.txt')))
    how |= dict(images=10, steps=4, batch_size=4)
    words = [w for k, v in how.items() for w in (f'--{k.replace("_", "-")}', str(v))]
    done = subprocess.run([
        sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '-m',
        'cfg_lessons.imagenet', 'generate', '--network', network, '--out', tmp_path/'two', '--w',
        '0', '2', '--device', 'cpu', *words
    ], capture_output=True, text=True, timeout=200, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr
    torch.set_num_threads(1)
    generate_samples(str(network), tmp_path/'one', (0., 2.), device='cpu', **how)
    one, two = ([(tmp_path/by/f'w={w}'/'images.npy').read_bytes() for w in (0, 2)]
                for by in ('one', 'two'))
    assert one == two and one[0] != one[1]


@pytest.fixture(scope='module')
def large(tmp_path_factory):
    "What the hub says of DiT-XL/2 and its autoencoder, without the 2.7 GB of weights."
    folder = tmp_path_factory.mktemp('large')
    with torch.device('meta'):
        diffusers.DiTTransformer2DModel(
            num_attention_heads=16, attention_head_dim=72, in_channels=4, out_channels=8,
            num_layers=28, sample_size=32, patch_size=2, num_embeds_ada_norm=1000,
            norm_type='ada_norm_zero',
            norm_elementwise_affine=False).save_config(folder/'transformer')
        diffusers.AutoencoderKL(down_block_types=('DownEncoderBlock2D',)*4,
                                up_block_types=('UpDecoderBlock2D',)*4,
                                block_out_channels=(128, 256, 512, 512), layers_per_block=2,
                                sample_size=256).save_config(folder/'vae')
    (folder/'model_index.json').write_text('{"_class_name": "DiTPipeline"}')
    return folder


def test_the_bill_of_the_published_dit(large):
    """Peebles and Xie, table 4: 118.6 billion products for a call, 675 million parameters; 50,000
    pictures at 250 steps ask 25 million times."""
    found = sampling_bill(str(large), gpu='A100', mfu=.5)
    # which diffusers stores once for each of 28 blocks
    embedding = 1001*1152 + 257*1152 + 1153*1152
    assert abs(found['flops']/2e9 - 118.6) < .2
    assert round((found['parameters'] - 27*embedding)/1e6) == 675
    work = 25e6*237.2e9 + 50_000*16*found['decoder_flops']
    assert abs(found['sampling_gpu_hours']/(work/(312e12*.5)/3600) - 1) < .002
    assert found['bytes_per_image'] == 3*256**2
    assert abs(
        sampling_bill(str(large), w=(0., .5), gpus=8)['hours']/
        (sampling_bill(str(large), w=(.5,))['hours']*1.5/8) -
        1) < .03  # 3 calls for 2; both are decoded


def test_the_bill_by_the_command(saved, saved_text, capsys):
    """cfg-cost --network: w = 0 takes half; OpenAI's networks by their names; a name nobody knows
    is refused."""
    for w, calls in ('0', '10'), ('2', '20'):
        cfg_cost(['--network', str(saved), '--w', w, '--steps', '10', '--images', '1000'])
        assert f'calls per image                 {calls}\n' in capsys.readouterr().out
    assert sampling_bill(str(saved_text/'sd'))['decoder_flops'] > 4*sampling_bill(
        str(saved))['decoder_flops'] > 0  # four times the pixels
    adm = sampling_bill('256x256_diffusion')
    assert adm['bytes_per_image'] == 3*256**2 and adm['decoder_flops'] == 0
    assert adm['parameters'] == sum(p.numel() for p in released('256x256_diffusion').parameters())
    with pytest.raises(ValueError, match='is no folder of diffusers'):
        sampling_bill(str(saved/'none'))
    with pytest.raises(ValueError, match='make no bill'): sampling_bill(str(saved), mfu=2.)
    with pytest.raises(SystemExit, match='make no bill'):
        cfg_cost(['--network', str(saved), '--gpus', '0'])


def test_a_pipeline_of_another_family_is_refused(tmp_path):
    (tmp_path/'model_index.json').write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match='is a FluxPipeline'): open_pipeline(tmp_path)
    with pytest.raises(ValueError, match='is no folder of diffusers'):
        open_pipeline(f'{tmp_path}/none')


def test_the_command_draws_with_a_dit(saved, tmp_path):
    """cfg-generate on a folder of diffusers: pictures of the decoder's size, latents not clipped,
    independent of the batch, one record of how."""
    make = lambda out, **how: generate_samples(str(saved), tmp_path/out, images=6, w=(0., 1.), steps
                                               =4, device='cpu', **how)
    whole, cut = make('whole'), make('cut', batch_size=4)
    for a, b in zip(whole, cut):
        x, y, notes = open_images(a)
        assert x.shape == (6, 3, 8, 8) and np.abs(x.astype(int) - open_images(b)[0]).max() <= 1
        assert notes['made']['limit'] == 'none' and notes['made']['network'] == str(saved)
        assert notes['made']['p_uncond'] == .1
    assert not np.array_equal(*(open_images(f)[0] for f in whole))


def test_weights_in_the_older_format_are_converted_by_the_line_of_the_chapter(tmp_path):
    """The published DiT has no safetensors: refused, then converted as chapter 16 says, then the
    same network."""
    kept, = (line for line in (ROOT/'nbs'/'16_pretrained.ipynb').read_text().splitlines()
             if 'use_safetensors=False' in line)
    code = re.search(r'python -c \\"(.*?)\\"`',
                     kept)[1].replace('facebook/DiT-XL-2-256',
                                      str(tmp_path/'old')).replace('dit-xl', str(tmp_path/'new'))
    diffusers.DiTPipeline(small_dit(), small_vae(), diffusers.DDIMScheduler(1000)).save_pretrained(
        tmp_path/'old', safe_serialization=False)
    with pytest.raises(ValueError, match='only safetensors'): open_pipeline(tmp_path/'old')
    exec(code)
    new, old = open_pipeline(tmp_path/'new'), dit(small_dit(), small_vae(),
                                                  diffusers.DDIMScheduler(1000))
    at = torch.randn(2, 4, 4, 4), torch.tensor([-3., 2.]), torch.tensor([3, NULL])
    with torch.no_grad(): assert new.denoiser(*at).equal(old.denoiser(*at))


def test_the_weights_are_known_by_their_bytes(saved):
    "Another weight is another checkpoint in the records."
    first = open_pipeline(saved).about['checkpoint_sha256']
    assert open_pipeline(saved).about['checkpoint_sha256'] == first != open_pipeline(
        saved, bf16=True).about['checkpoint_sha256']


def test_refusals(saved, tmp_path, monkeypatch):
    """One sentence each: no row for NULL, other channels, another answer, another family, no such
    name, no diffusers, a label that is none."""
    scheduler = diffusers.DDIMScheduler(1000)
    untaught = small_dit()
    table = untaught.transformer_blocks[0].norm1.emb.class_embedder
    table.embedding_table = nn.Embedding(10, 16)
    with pytest.raises(ValueError, match='none for NULL'): dit(untaught, small_vae(), scheduler)
    with pytest.raises(ValueError, match='the autoencoder has 8'):
        dit(small_dit(), small_vae(8), scheduler)
    with pytest.raises(ValueError, match="answers 'sample'"):
        dit(small_dit(), small_vae(), diffusers.DDIMScheduler(prediction_type='sample'))
    with pytest.raises(ValueError, match='epsilon and v_prediction'): reads_as('flow')
    with pytest.raises(ValueError, match='outside 0 to 9'):
        dit(small_dit(), small_vae(), scheduler).denoiser(torch.zeros(1, 4, 4, 4), torch.zeros(1),
                                                          torch.tensor([10]))
    with pytest.raises(ValueError, match='is a classifier|is no classifier'):
        open_network(saved, classifier=True)
    with pytest.raises(ValueError, match='could not be opened .*safetensors|safetensors'):
        for weights in saved.glob('*/*.safetensors'):
            (tmp_path/weights.parent.name).mkdir(), weights.rename(tmp_path/weights.parent.name/
                                                                   weights.name)
        try: open_pipeline(saved)
        finally:
            for weights in tmp_path.glob('*/*.safetensors'):
                weights.rename(saved/weights.parent.name/weights.name)
    with pytest.raises(ValueError, match='give a list of texts'):
        stable_diffusion(diffusers.UNet2DConditionModel(), small_vae(), None,
                         type('T', (), dict(model_max_length=4)), 'a fox', scheduler)
    with pytest.raises(FileNotFoundError, match='no folder of diffusers'):
        open_network(tmp_path/'missing')
    with pytest.raises(ValueError, match='no Attention to blind'):
        generate_samples(str(saved), tmp_path/'out', w=(1.,), guidance='perturbed_attention',
                         device='cpu')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(ValueError, match='the hub did not give one'): open_network('nobody/nothing')
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ValueError, match=r'pip install "cfg_lessons\[pretrained\]"'):
        open_pipeline(saved)
