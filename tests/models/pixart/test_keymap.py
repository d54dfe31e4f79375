"""Both layouts load, and checkpoints of other models are refused by what they are."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.pixart import PixArt
from ditq.models.pixart.keymap import to_pixart
from ditq.models.pixart.loading import check_pixart_file, load_pixart
from tests.models.pixart.small import CONFIGS, diffusers_model, state_arrays, to_mlx
from tests.models.stored import write_stored

ALPHA, SMALLER = CONFIGS["alpha"], CONFIGS["alpha 512"]


@pytest.fixture(scope="module")
def weights():
    return state_arrays(diffusers_model(ALPHA))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("prefix", ["", "transformer.", "model."])
def test_what_stands_before_and_beside_the_transformer_is_left_out(weights, prefix):
    whole = {f"{prefix}{key}": value for key, value in to_mlx(weights).items()}
    whole |= dict.fromkeys(("vae.x", "text_encoder.x"), mx.zeros((2,)))
    whole[f"{prefix}pos_embed.pos_embed"] = mx.zeros((1, 4, 48))
    got = to_pixart(whole)
    assert got is not None
    assert got.keys() == dict(tree_flatten(PixArt(ALPHA).parameters())).keys()
    again = to_pixart(got)
    assert again is not None and same(again, got)


@pytest.mark.parametrize("kind", ["file", "folder", "published as Transformer2DModel"])
def test_checkpoints_are_loaded(tmp_path, weights, kind):
    if kind == "file":
        path = write_stored(tmp_path / "pixart.safetensors", weights)
    else:
        diffusers_model(ALPHA).save_pretrained(path := tmp_path)
    if kind.startswith("published"):
        config = json.loads((path / "config.json").read_text()) | {"_class_name": "Transformer2DModel"}
        config |= {"use_additional_conditions": None, "interpolation_scale": None}
        (path / "config.json").write_text(json.dumps(config))
    check_pixart_file(path, ALPHA)
    wanted = to_pixart(to_mlx(weights))
    got = dict(tree_flatten(load_pixart(path, ALPHA).parameters()))
    assert wanted is not None and same(got, wanted)


def zeros(*shape) -> np.ndarray:
    return np.zeros(shape, np.float32)


OTHERS = {
    "a LoRA: changes to a model": {"transformer.transformer_blocks.0.attn1.to_q.lora_A.weight": zeros(2, 2)},
    "a ControlNet: an addition": {"controlnet.0.copied_block.attn.qkv.weight": zeros(2, 2)},
    "a transformer of the SD3 family": {"joint_blocks.0.x_block.attn.qkv.weight": zeros(2, 2)},
    "the UNet of Stable Diffusion 1 or 2": {"down_blocks.0.attentions.0.proj_in.weight": zeros(2, 2)},
    "FLUX or a model of its kind": {"double_blocks.0.img_mlp.0.weight": zeros(1)},
    "a T5 text encoder": {"encoder.block.0.layer.0.SelfAttention.q.weight": zeros(2, 2)},
    "a VAE": {"decoder.mid_block.resnets.0.conv1.weight": zeros(2, 2)},
    r"keys of no known layout \(nonsense\)": {"nonsense": zeros(1)},
    "a transformer for video": {"adaln_single.linear.weight": zeros(2, 2), "proj_in.weight": zeros(2, 2)},
    "PixArt under the names of its original files": {"blocks.0.cross_attn.q_linear.weight": zeros(2, 2)},
}


@pytest.mark.parametrize("told", OTHERS)
def test_other_models_are_told_of_by_their_headers(tmp_path, told):
    path = write_stored(tmp_path / "mine.safetensors", OTHERS[told])
    for look in (check_pixart_file, load_pixart):
        with pytest.raises(UserError, match=f"mine.safetensors: got {told}"):
            look(path, ALPHA)


def test_models_with_and_without_size_embeddings_are_told_apart(tmp_path, weights):
    sized = write_stored(tmp_path / "sized.safetensors", weights)
    unsized = write_stored(tmp_path / "unsized.safetensors", state_arrays(diffusers_model(SMALLER)))
    with pytest.raises(UserError, match="got the transformer of PixArt with size .*--model pixart-alpha, if"):
        check_pixart_file(sized, SMALLER)
    with pytest.raises(
        UserError, match="got the transformer of PixArt without .*pixart-alpha-512 or pixart-sigma"
    ):
        check_pixart_file(unsized, ALPHA)


def test_other_depths_and_latents_are_told(tmp_path, weights):
    short = {key: value for key, value in weights.items() if not key.startswith("transformer_blocks.2.")}
    with pytest.raises(UserError, match="got a PixArt transformer of 2 blocks, not 3"):
        check_pixart_file(write_stored(tmp_path / "short.safetensors", short), ALPHA)
    wide = weights | {"pos_embed.proj.weight": zeros(48, 8, 2, 2)}
    with pytest.raises(UserError, match="that takes 8 latent channels, not 4"):
        check_pixart_file(write_stored(tmp_path / "wide.safetensors", wide), ALPHA)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_size", 64),
        ("interpolation_scale", 1),
        ("attention_head_dim", 24),
        ("_class_name", "SD3Transformer2DModel"),
        ("norm_type", "ada_norm_zero"),
    ],
)
def test_a_folders_config_of_another_shape_is_refused(tmp_path, field, value):
    diffusers_model(ALPHA).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=f"config.json: got {field}"):
        check_pixart_file(tmp_path, ALPHA)


def test_missing_keys_are_named(tmp_path, weights):
    path = write_stored(
        tmp_path / "mine.safetensors",
        {key: value for key, value in weights.items() if key != "proj_out.bias"},
    )
    with pytest.raises(UserError, match=r"1 missing: proj_out\.bias"):
        load_pixart(path, ALPHA)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (dict(head_dim=7, num_heads=1), "multiple of 4"),
        (dict(head_dim=16, num_heads=2), "multiple of 3"),
        (dict(frequency_embed_dim=255), "an even number"),
        (dict(sample_size=63), "a multiple of patch_size 2"),
    ],
)
def test_shapes_that_make_no_network_are_told(fields, told):
    from ditq.models.pixart import PixArtConfig

    with pytest.raises(UserError, match=told):
        PixArtConfig(**fields)
