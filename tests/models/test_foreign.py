"""Files of something else are called by their names; what trainers put before keys is taken away."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.foreign import what_it_is
from ditq.models.mmdit.loading import load_mmdit
from tests.models.families import FAMILIES, stability_weights, to_mlx

CONFIG = FAMILIES["sd3-medium"]


@pytest.fixture(scope="module")
def weights() -> dict[str, mx.array]:
    return to_mlx(stability_weights(CONFIG))


def saved(folder, weights) -> str:
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return str(folder / "model.safetensors")


@pytest.mark.parametrize(
    "prefix",
    [
        "_orig_mod.",
        "module.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.diffusion_model.",
        "diffusion_model.",
        "transformer.",
        "model.",
        "module.model.diffusion_model.",
        "state_dict.",
    ],
)
def test_a_common_prefix_is_taken_away(tmp_path, weights, prefix):
    plain = dict(tree_flatten(load_mmdit(saved(tmp_path, weights), CONFIG).parameters()))
    wrapped = {prefix + key: value for key, value in weights.items()}
    got = dict(tree_flatten(load_mmdit(saved(tmp_path, wrapped), CONFIG).parameters()))
    assert got.keys() == plain.keys() and all(mx.array_equal(got[key], plain[key]) for key in plain)


def test_a_prefix_of_compiled_blocks_is_taken_away(tmp_path, weights):
    wrapped = {key.replace(".x_block.", ".x_block._orig_mod."): value for key, value in weights.items()}
    assert load_mmdit(saved(tmp_path, wrapped), CONFIG).multimodal_transformer_blocks


def test_a_vae_and_text_encoders_beside_the_transformer_are_left_out(tmp_path, weights):
    wrapped = {f"model.diffusion_model.{key}": value for key, value in weights.items()}
    for key in (
        "first_stage_model.decoder.conv_in.weight",
        "text_encoders.clip_l.logit_scale",
        "vae.encoder.a",
    ):
        wrapped[key] = mx.zeros((1,))
    assert load_mmdit(saved(tmp_path, wrapped), CONFIG).multimodal_transformer_blocks


def test_two_keys_of_one_parameter_are_told(tmp_path, weights):
    key = "context_embedder.bias"
    twice = {f"model.diffusion_model.{key}": value for key, value in weights.items()} | {key: mx.zeros((64,))}
    with pytest.raises(UserError, match=f"both .*{key} and .*{key}; expected one of them"):
        load_mmdit(saved(tmp_path, twice), CONFIG)


KINDS = {
    "a LoRA: changes to a model": "transformer.transformer_blocks.0.attn.to_q.lora_A.weight",
    "a LoRA: changes": "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight",
    "a LoRA": "joint_blocks.0.x_block.attn.qkv.lokr_w1",
    "a ControlNet": "controlnet_blocks.0.weight",
    "a ControlNet:": "control_model.input_blocks.0.0.weight",
    "FLUX or": "model.diffusion_model.double_blocks.0.img_attn.qkv.weight",
    "FLUX": "single_transformer_blocks.0.attn.to_q.weight",
    "PixArt or": "adaln_single.linear.weight",
    "PixArt": "blocks.0.cross_attn.q_linear.weight",
    "the UNet of Stable Diffusion XL": "model.diffusion_model.label_emb.0.0.weight",
    "the UNet of Stable Diffusion 1 or 2": "model.diffusion_model.input_blocks.1.1.norm.weight",
    "the UNet of Stable Diffusion 1": "down_blocks.0.attentions.0.proj_in.weight",
    "a CLIP text encoder": "text_model.encoder.layers.0.mlp.fc1.weight",
    "a T5 text encoder": "encoder.block.0.layer.0.SelfAttention.q.weight",
    "a VAE": "decoder.mid_block.resnets.0.conv1.weight",
    "a language model": "model.layers.0.self_attn.q_proj.weight",
    "a checkpoint quantized by GPTQ": "x.qweight",
    "a checkpoint quantized by bitsandbytes": "x.weight.absmax",
}


@pytest.mark.parametrize("told", KINDS)
def test_a_file_of_something_else_is_called_by_its_name(tmp_path, told):
    path = saved(tmp_path, {KINDS[told]: mx.zeros((4, 4))})
    with pytest.raises(UserError) as caught:
        load_mmdit(path, CONFIG)
    assert f"{path}: got {told}" in str(caught.value) and len(str(caught.value)) < len(path) + 400


def test_a_unet_for_inpainting_is_told_by_its_channels():
    keys = {
        "down_blocks.0.attentions.0.proj_in.weight": mx.zeros((2,)),
        "conv_in.weight": mx.zeros((320, 9, 3, 3)),
    }
    assert what_it_is(keys) == "the UNet of Stable Diffusion 1 or 2, for inpainting"


def test_unknown_keys_are_shown_shortly(tmp_path):
    path = saved(tmp_path, {f"k{i}." + "x" * 500: mx.zeros((1,)) for i in range(200)})
    with pytest.raises(UserError, match="keys of no known layout") as caught:
        load_mmdit(path, CONFIG)
    assert len(str(caught.value)) < 600


def test_a_transformer_with_more_latent_channels_is_told(tmp_path, weights):
    wide = weights | {"x_embedder.proj.weight": mx.zeros((64, 33, 2, 2))}
    with pytest.raises(UserError, match="takes 33 latent channels, for inpainting, editing or control"):
        load_mmdit(saved(tmp_path, wide), CONFIG)


def test_another_model_of_the_family_is_called_by_its_name(tmp_path, monkeypatch):
    from ditq.models.mmdit import loading

    monkeypatch.setattr(loading, "PUBLISHED", FAMILIES)
    for own in FAMILIES:
        for other in FAMILIES:
            path = saved(tmp_path, to_mlx(stability_weights(FAMILIES[other])))
            if own == other:
                load_mmdit(path, FAMILIES[own])
                continue
            with pytest.raises(
                UserError, match=f"got the transformer of {other}; expected {own}; give it with --model"
            ):
                load_mmdit(path, FAMILIES[own])


@pytest.mark.parametrize("shape", [(), (0,), (191, 64)])
def test_a_matrix_that_cannot_be_split_is_named(tmp_path, weights, shape):
    key = "joint_blocks.0.x_block.attn.qkv.weight"
    path = saved(tmp_path, weights | {key: mx.array(np.zeros(shape, np.float32))})
    with pytest.raises(UserError, match=f"{key}: got the shape .* expected rows in 3 equal parts"):
        load_mmdit(path, CONFIG)
