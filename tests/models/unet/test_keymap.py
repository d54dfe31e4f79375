"""Each layout's names against `diffusers`' own conversion, and checkpoints of other models refused by what they are."""

import json

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.unet import SD1, UNet
from ditq.models.unet.keymap import original_blocks, to_unet
from ditq.models.unet.loading import check_unet_file, load_unet
from tests.models.stored import write_stored
from tests.models.unet.small import (
    CONFIGS,
    SMALL,
    converted,
    diffusers_model,
    original_weights,
    state_arrays,
    to_mlx,
)


@pytest.fixture(scope="module", params=CONFIGS)
def layouts(request):
    """A config, and the same weights in each layout."""
    config = CONFIGS[request.param]
    original = original_weights(config)
    return config, original, state_arrays(converted(config, original))


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


def test_original_names_are_mapped_as_diffusers_maps_them(layouts):
    config, original, diffusers = layouts
    got, wanted = to_unet(to_mlx(original), config), to_unet(to_mlx(diffusers), config)
    assert got is not None and wanted is not None and same(got, wanted)
    assert got.keys() == dict(tree_flatten(UNet(config).parameters())).keys()


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "unet.", "model."])
def test_what_stands_before_and_beside_the_unet_is_left_out(layouts, prefix):
    config, original, _ = layouts
    beside = ("first_stage_model.decoder.conv_in.weight", "cond_stage_model.transformer.x", "betas", "logvar")
    whole = {f"{prefix}{key}": value for key, value in to_mlx(original).items()}
    whole |= dict.fromkeys((*beside, "alphas_cumprod_prev", "model_ema.decay"), mx.zeros((2,)))
    got, wanted = to_unet(whole, config), to_unet(to_mlx(original), config)
    assert got is not None and wanted is not None and same(got, wanted)


def test_our_own_layout_is_kept(layouts):
    config, _, diffusers = layouts
    ours = to_unet(to_mlx(diffusers), config)
    assert ours is not None
    if config.attention_levels:
        again = to_unet(ours, config)
        assert again is not None and same(again, ours)


def test_the_original_numbers_of_the_published_model():
    """As in v1-inference.yaml's UNet: 12 blocks down, 12 up; a 2 where an upsampler follows a transformer."""
    blocks = original_blocks(SD1)
    assert blocks["input_blocks.3.0"] == "down_blocks.0.downsamplers.0"
    assert blocks["input_blocks.11.0"] == "down_blocks.3.resnets.1" and "input_blocks.11.1" not in blocks
    assert blocks["output_blocks.2.1"] == "up_blocks.0.upsamplers.0"
    assert blocks["output_blocks.5.2"] == "up_blocks.1.upsamplers.0"
    assert blocks["output_blocks.11.1"] == "up_blocks.3.attentions.2"
    assert len(blocks) == len(UNet(SD1).blocks)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_checkpoints_are_loaded(tmp_path, kind):
    reference = diffusers_model(SMALL)
    if kind == "folder":
        reference.save_pretrained(tmp_path)
        unet = load_unet(tmp_path, SMALL)
    else:
        unet = load_unet(write_stored(tmp_path / "sd.safetensors", state_arrays(reference)), SMALL)
    wanted = to_unet(to_mlx(state_arrays(reference)), SMALL)
    assert wanted is not None and same(dict(tree_flatten(unet.parameters())), wanted)


def spoilt(**shapes) -> dict[str, np.ndarray]:
    """The small UNet's tensors, some of other shapes."""
    weights = {f"model.diffusion_model.{key}": value for key, value in original_weights(SMALL).items()}
    changed = {key: np.zeros(shape, np.float32) for key, shape in shapes.items()}
    return weights | {f"model.diffusion_model.{key}": value for key, value in changed.items()}


TO_K = "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (
            {"lora_unet_down_blocks_0.lora_up.weight": np.zeros((2, 2), np.float32)},
            "got a LoRA: changes to a model",
        ),
        (
            {"joint_blocks.0.x_block.attn.qkv.weight": np.zeros((2, 2), np.float32)},
            "got a transformer of the SD3 family",
        ),
        ({"double_blocks.0.img_mlp.0.weight": np.zeros(1, np.float32)}, "got FLUX or a model of its kind"),
        (
            spoilt(**{"input_blocks.0.0.weight": (32, 9, 3, 3)}),
            "got a UNet that takes 9 channels, for inpainting",
        ),
        (
            spoilt(**{"input_blocks.0.0.weight": (32, 8, 3, 3)}),
            "got a UNet that takes 8 channels, for editing",
        ),
        (
            spoilt(**{TO_K: (32, 1024)}),
            "got the UNet of Stable Diffusion 2, which reads another text encoder",
        ),
        (spoilt(**{TO_K: (32, 2048)}), "got the UNet of Stable Diffusion XL"),
        (spoilt(**{TO_K: (32, 48)}), "got a UNet that reads text of width 48, not 40"),
        (spoilt() | {"v_pred": np.zeros(1, np.float32)}, "got a UNet that predicts velocity"),
        (
            {
                **spoilt(),
                "model.diffusion_model.time_embedding.cond_proj.weight": np.zeros((2, 2), np.float32),
            },
            "got a latent consistency model",
        ),
        ({"nonsense": np.zeros(1, np.float32)}, r"got keys of no known layout \(nonsense\)"),
    ],
)
def test_other_models_are_told_of_by_their_headers(tmp_path, weights, told):
    path = write_stored(tmp_path / "mine.safetensors", weights)
    for look in (check_unet_file, load_unet):
        with pytest.raises(
            UserError, match=f"mine.safetensors: {told}.*expected the UNet of Stable Diffusion 1"
        ):
            look(path, SMALL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attention_head_dim", 4),
        ("layers_per_block", 3),
        ("use_linear_projection", True),
        ("_class_name", "Other"),
    ],
)
def test_a_folders_config_of_another_shape_is_refused(tmp_path, field, value):
    diffusers_model(SMALL).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=f"config.json: got {field}"):
        check_unet_file(tmp_path, SMALL)


def test_missing_keys_are_named(tmp_path):
    weights = original_weights(SMALL)
    del weights["out.2.bias"]
    path = write_stored(tmp_path / "mine.safetensors", weights)
    with pytest.raises(UserError, match="1 missing: conv_out.bias"):
        load_unet(path, SMALL)
