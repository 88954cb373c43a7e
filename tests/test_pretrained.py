"Networks of diffusers: opened by name, drawn with by the commands, and refused in one sentence."
import sys

import numpy as np
import pytest
import torch
from torch import nn

from cfg_lessons.images import open_images
from cfg_lessons.imagenet import generate_samples, open_network
from cfg_lessons.pretrained import dit, open_dit, reads_as, stable_diffusion

diffusers = pytest.importorskip('diffusers')


def small_dit(classes=10, **more):
    torch.manual_seed(0)
    net = diffusers.DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, sample_size=4, patch_size=2,
                                          num_embeds_ada_norm=classes, norm_type='ada_norm_zero', norm_elementwise_affine=False, **more).eval()
    for p in net.parameters(): nn.init.normal_(p, std=.05)
    return net


def small_vae(channels=4):
    return diffusers.AutoencoderKL(down_block_types=('DownEncoderBlock2D',)*2, up_block_types=('UpDecoderBlock2D',)*2, block_out_channels=(32, 32), latent_channels=channels, sample_size=8).eval()


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    "A DiT as diffusers saves one."
    folder = tmp_path_factory.mktemp('saved')/'dit'
    diffusers.DiTPipeline(small_dit(), small_vae(), diffusers.DDIMScheduler(1000, clip_sample=False)).save_pretrained(folder)
    return folder


def test_the_command_draws_with_a_dit(saved, tmp_path):
    "cfg-generate on a folder of diffusers: pictures of the decoder's size, latents not clipped, independent of the batch, one record of how."
    make = lambda out, **how: generate_samples(str(saved), tmp_path/out, images=6, w=(0., 1.), steps=4, device='cpu', **how)
    whole, cut = make('whole'), make('cut', batch_size=4)
    for a, b in zip(whole, cut):
        x, y, notes = open_images(a)
        assert x.shape == (6, 3, 8, 8) and np.abs(x.astype(int) - open_images(b)[0]).max() <= 1
        assert notes['made']['limit'] == 'none' and notes['made']['network'] == str(saved) and notes['made']['p_uncond'] == .1
    assert not np.array_equal(*(open_images(f)[0] for f in whole))


def test_the_weights_are_known_by_their_bytes(saved):
    "Another weight is another checkpoint in the records."
    first = open_dit(saved).about['checkpoint_sha256']
    assert open_dit(saved).about['checkpoint_sha256'] == first != open_dit(saved, bf16=True).about['checkpoint_sha256']


def test_refusals(saved, tmp_path, monkeypatch):
    "One sentence each: no row for NULL, other channels, another answer, another family, no such name, no diffusers, a label that is none."
    scheduler = diffusers.DDIMScheduler(1000)
    untaught = small_dit()
    table = untaught.transformer_blocks[0].norm1.emb.class_embedder
    table.embedding_table = nn.Embedding(10, 16)
    with pytest.raises(ValueError, match='none for NULL'): dit(untaught, small_vae(), scheduler)
    with pytest.raises(ValueError, match='the autoencoder has 8'): dit(small_dit(), small_vae(8), scheduler)
    with pytest.raises(ValueError, match="answers 'sample'"): dit(small_dit(), small_vae(), diffusers.DDIMScheduler(prediction_type='sample'))
    with pytest.raises(ValueError, match='epsilon and v_prediction'): reads_as('flow')
    with pytest.raises(ValueError, match='outside 0 to 9'): dit(small_dit(), small_vae(), scheduler).denoiser(torch.zeros(1, 4, 4, 4), torch.zeros(1), torch.tensor([10]))
    with pytest.raises(ValueError, match='is a classifier|is no classifier'): open_network(saved, classifier=True)
    with pytest.raises(ValueError, match='could not be opened .*safetensors|safetensors'):
        for weights in saved.glob('*/*.safetensors'): (tmp_path/weights.parent.name).mkdir(), weights.rename(tmp_path/weights.parent.name/weights.name)
        try: open_dit(saved)
        finally:
            for weights in tmp_path.glob('*/*.safetensors'): weights.rename(saved/weights.parent.name/weights.name)
    with pytest.raises(ValueError, match='give a list of texts'): stable_diffusion(diffusers.UNet2DConditionModel(), small_vae(), None, type('T', (), dict(model_max_length=4)), 'a fox', scheduler)
    with pytest.raises(FileNotFoundError, match='no DiT of diffusers'): open_network(tmp_path/'missing')
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(ValueError, match='the hub did not give one'): open_network('nobody/nothing')
    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ValueError, match=r'pip install "cfg_lessons\[pretrained\]"'): open_dit(saved)
