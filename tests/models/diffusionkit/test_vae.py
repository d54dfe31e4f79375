"""The VAE against `diffusers.AutoencoderKL`, from Stability's and from diffusers' files."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

from ditq.core.errors import UserError
from ditq.models.diffusionkit import VAE
from ditq.models.diffusionkit.vae import SCALE, SHIFT
from tests.models.diffusionkit.small import SHAPE, ldm_vae_weights, save
from tests.models.stored import E5M2, write_stored


@pytest.fixture(scope="module")
def reference() -> AutoencoderKL:
    channels = SHAPE.block_out_channels
    model = AutoencoderKL(
        block_out_channels=channels, layers_per_block=SHAPE.layers_per_block, latent_channels=SHAPE.latent_channels,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
        norm_num_groups=SHAPE.groups, use_quant_conv=False, use_post_quant_conv=False,
        scaling_factor=1.5305, shift_factor=0.0609,
    )  # fmt: skip
    tensors = {key: torch.from_numpy(value) for key, value in ldm_vae_weights(SHAPE).items()}
    model.load_state_dict(convert_ldm_vae_checkpoint(tensors, dict(model.config)))
    return model.eval()


@pytest.fixture(params=["stability", "diffusers"])
def vae(request, reference, tmp_path) -> VAE:
    if request.param == "diffusers":
        reference.save_pretrained(tmp_path / "vae")
        return VAE(tmp_path / "vae", SHAPE)
    save(tmp_path / "sd3_medium.safetensors", ldm_vae_weights(SHAPE))
    return VAE(tmp_path / "sd3_medium.safetensors", SHAPE)


def latents_and_pixels(reference, batch=2, height=6, width=10) -> tuple[np.ndarray, np.ndarray]:
    latents = np.random.default_rng(0).standard_normal((batch, height, width, 16)).astype(np.float32)
    with torch.no_grad():
        moved = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy())
        return latents, reference.decode(moved).sample.numpy().transpose(0, 2, 3, 1)


def test_decoder_equals_diffusers(vae, reference):
    latents, wanted = latents_and_pixels(reference)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(np.array(vae.decoder()(mx.array(latents))) - wanted).max() <= 1e-4


def test_encoder_equals_diffusers(vae, reference):
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 48, 80, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = (
            reference._encode(torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()))
            .numpy()
            .transpose(0, 2, 3, 1)
        )
    assert np.abs(wanted).max() > 0.5
    assert np.abs(np.array(vae.encoder()(mx.array(pixels))) - wanted).max() <= 1e-4


def test_pictures_are_those_of_diffusers(vae, reference):
    latents, pixels = latents_and_pixels(reference)
    wanted = (np.clip(pixels / 2 + 0.5, 0, 1) * 255).round()
    got = vae.decode(mx.array((latents - SHIFT) * SCALE))
    assert got.dtype == np.uint8 and got.shape == (2, 48, 80, 3)
    assert (got != wanted).mean() < 1e-3  # a rounding boundary
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_latents_are_those_of_diffusers(vae, reference):
    pictures = np.random.default_rng(2).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    scaled = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        wanted = (reference.encode(scaled).latent_dist.mode() - 0.0609) * 1.5305
    got = np.array(vae.encode(pictures))
    assert np.abs(got - wanted.numpy().transpose(0, 2, 3, 1)).max() <= 1e-4


def test_group_norm_epsilon_is_what_stock_diffusionkit_lacks(vae, reference):
    latents, wanted = latents_and_pixels(reference)
    decoder = vae.decoder()
    for _, module in decoder.named_modules():
        if isinstance(module, nn.GroupNorm):
            module.eps = 1e-5
    assert np.abs(np.array(decoder(mx.array(latents))) - wanted).max() > 1e-5


def test_misfits_are_named(tmp_path):
    weights = ldm_vae_weights(SHAPE)
    save(tmp_path / "none.safetensors", {"model.diffusion_model.pos_embed": np.zeros((1, 4, 8))})
    with pytest.raises(UserError, match=r"none\.safetensors: got no VAE decoder"):
        VAE(tmp_path / "none.safetensors", SHAPE).decode(mx.zeros((1, 2, 2, 16)))
    del weights["first_stage_model.decoder.mid.attn_1.k.bias"]
    save(tmp_path / "partly.safetensors", weights)
    with pytest.raises(UserError, match=r"1 missing: mid_blocks\.1\.key_proj\.bias"):
        VAE(tmp_path / "partly.safetensors", SHAPE).decoder()
    with pytest.raises(UserError, match="multiples of 8"):
        VAE(tmp_path / "partly.safetensors", SHAPE).encode(np.zeros((1, 12, 16, 3), np.uint8))


def test_float8_is_decoded_and_integers_are_refused(tmp_path):
    key = "first_stage_model.decoder.conv_in.weight"
    weights = {name: value.astype(np.float32) for name, value in ldm_vae_weights(SHAPE).items()}
    bits = np.random.default_rng(0).integers(0, 100, weights[key].shape).astype(np.uint8)
    path = write_stored(tmp_path / "a.safetensors", weights | {key: ("F8_E5M2", bits)})
    assert np.array_equal(
        np.array(VAE(path, SHAPE).decoder().conv_in.weight), E5M2[bits].transpose(0, 2, 3, 1)
    )
    path = write_stored(tmp_path / "a.safetensors", weights | {key: bits})
    with pytest.raises(
        UserError, match=r"\(VAE decoder\): got 1 not floating-point: conv_in\.weight \(uint8\)"
    ):
        VAE(path, SHAPE).decoder()


def test_two_keys_of_one_parameter_are_told(tmp_path):
    weights = ldm_vae_weights(SHAPE)
    key = "first_stage_model.decoder.conv_in.bias"
    save(tmp_path / "a.safetensors", weights | {"decoder.conv_in.bias": weights[key]})
    with pytest.raises(
        UserError, match=r"a\.safetensors: got both .*decoder\.conv_in\.bias and .*; expected one of them"
    ):
        VAE(tmp_path / "a.safetensors", SHAPE).decoder()
