"""A whole picture, from prompt to pixels, against `diffusers`' StableDiffusion3Pipeline on the same random weights."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from transformers import CLIPTokenizer, T5Tokenizer

import ditq.models.diffusionkit.sd3 as sd3
from ditq.models import load
from ditq.models.diffusionkit.vae import VAE
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import PROCESSES
from ditq.sampling.steppers import sample
from tests.models.diffusionkit.small import SHAPE, ldm_vae_weights, mmdit_config
from tests.models.families import diffusers_model, stability_weights

PROMPT, NEGATIVE, STEPS, GUIDANCE = "the red fox in the snow", "a castle", 4, 5.0


@pytest.fixture(scope="module")
def reference(small) -> StableDiffusion3Pipeline:
    vae = AutoencoderKL(
        block_out_channels=SHAPE.block_out_channels, layers_per_block=SHAPE.layers_per_block, latent_channels=16,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        use_quant_conv=False, use_post_quant_conv=False, scaling_factor=1.5305, shift_factor=0.0609,
    )  # fmt: skip
    tensors = {key: torch.from_numpy(value) for key, value in ldm_vae_weights(SHAPE).items()}
    vae.load_state_dict(convert_ldm_vae_checkpoint(tensors, dict(vae.config)))
    pipeline = StableDiffusion3Pipeline(
        transformer=diffusers_model(mmdit_config(), stability_weights(mmdit_config())),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae.eval(),
        text_encoder=small.clip_l,
        tokenizer=CLIPTokenizer.from_pretrained(str(small.folder / "tokenizer_l"), model_max_length=77),
        text_encoder_2=small.clip_g,
        tokenizer_2=CLIPTokenizer.from_pretrained(
            str(small.folder / "tokenizer_g"), pad_token="!", model_max_length=77
        ),
        text_encoder_3=small.t5,
        tokenizer_3=T5Tokenizer.from_pretrained(str(small.folder), extra_ids=0, model_max_length=77),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def model(small, monkeypatch):
    monkeypatch.setitem(sd3.CONFIGS, "sd3-medium", mmdit_config())
    model = load("sd3-medium", small.folder, dtype=mx.float32)
    model.vae = VAE(model.files.vae(), SHAPE)  # type: ignore[attr-defined]
    return model


def test_conditioning_equals_diffusers(model, reference):
    with torch.no_grad():
        tokens, _, pooled, _ = reference.encode_prompt(
            PROMPT, None, None, do_classifier_free_guidance=False, max_sequence_length=77
        )
    got = model.encode([PROMPT])
    assert np.abs(np.array(got.tokens) - tokens.numpy()).max() <= 1e-4
    assert np.abs(np.array(got.pooled) - pooled.numpy()).max() <= 1e-4


def test_picture_equals_diffusers(model, reference):
    noise = np.random.default_rng(0).standard_normal((1, 8, 12, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = reference(
            PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=GUIDANCE, height=64, width=96,
            latents=torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()), max_sequence_length=77, output_type="np",
        ).images  # fmt: skip
    conditioning = model.encode([PROMPT, NEGATIVE])
    sigmas = PROCESSES[model.noise].grids[model.defaults.schedule](STEPS, model.defaults.shift)
    assert np.abs(sigmas - reference.scheduler.sigmas.numpy()).max() < 1e-6
    denoise = Denoiser(model.network()).run(conditioning[:1], conditioning[1:], sigmas, GUIDANCE)
    got = model.decode(sample(denoise, mx.array(noise), sigmas))
    assert np.abs(got - (wanted * 255).round()).max() <= 1
    assert (got != (wanted * 255).round()).mean() < 0.01
