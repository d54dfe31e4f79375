"""Every misfit of a checkpoint is named in one error; sharded files and folders load like single ones."""

import json

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.loading import read_weights
from ditq.models.mmdit.loading import load_mmdit
from tests.models.families import FAMILIES, stability_weights, to_mlx

CONFIG = FAMILIES["sd3-medium"]


@pytest.fixture
def weights() -> dict[str, mx.array]:
    return to_mlx(stability_weights(CONFIG))


def saved(path, weights) -> str:
    mx.save_safetensors(str(path), weights)
    return str(path)


def test_single_file_equals_what_was_saved(tmp_path, weights):
    mmdit = load_mmdit(saved(tmp_path / "model.safetensors", weights), CONFIG)
    qkv = weights["joint_blocks.1.x_block.attn.qkv.weight"]
    loaded = mmdit.multimodal_transformer_blocks[1].image_transformer_block.attn.k_proj.weight
    assert mx.array_equal(loaded, qkv[64:128])


def test_sharded_checkpoint_equals_the_single_file(tmp_path, weights):
    keys = sorted(weights)
    shards = {"model-1.safetensors": keys[::2], "model-2.safetensors": keys[1::2]}
    for name, part in shards.items():
        saved(tmp_path / name, {key: weights[key] for key in part})
    index = {"weight_map": {key: name for name, part in shards.items() for key in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    whole = read_weights(tmp_path)
    assert whole.keys() == weights.keys()
    assert all(mx.array_equal(whole[key], weights[key]) for key in keys)
    dtype = {array.dtype for _, array in tree_flatten(load_mmdit(tmp_path, CONFIG, mx.float16).parameters())}
    assert dtype == {mx.float16}


def test_missing_extra_and_misshapen_keys_are_named_together(tmp_path, weights):
    del weights["joint_blocks.2.x_block.mlp.fc1.bias"]
    weights["joint_blocks.0.x_block.novel"] = mx.zeros((1,))
    weights["context_embedder.weight"] = mx.zeros((64, 41))
    path = saved(tmp_path / "model.safetensors", weights)
    with pytest.raises(UserError) as caught:
        load_mmdit(path, CONFIG)
    message = str(caught.value)
    assert message.startswith(path)
    assert "1 missing: multimodal_transformer_blocks.2.image_transformer_block.mlp.fc1.bias" in message
    assert "1 extra: multimodal_transformer_blocks.0.image_transformer_block.novel" in message
    assert "1 misshapen: context_embedder.weight (64, 41) instead of (64, 40)" in message


def test_another_architecture_is_refused_in_a_short_message(tmp_path):
    other = to_mlx(stability_weights(FAMILIES["sd3.5-medium"]))
    with pytest.raises(UserError, match="extra: .*attn2") as caught:
        load_mmdit(saved(tmp_path / "model.safetensors", other), CONFIG)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, weights, value):
    weights["final_layer.linear.bias"] = mx.full((64,), value)
    with pytest.raises(UserError, match="1 not finite: final_layer.linear.bias"):
        load_mmdit(saved(tmp_path / "model.safetensors", weights), CONFIG)


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_truncated_file_is_refused_before_anything_is_computed(tmp_path, weights, kept):
    path = tmp_path / "model.safetensors"
    saved(path, weights)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="cannot be read|an empty file"):
        load_mmdit(path, CONFIG)


def test_absent_ambiguous_and_foreign_files_are_told_apart(tmp_path, weights):
    with pytest.raises(UserError, match="no such file"):
        load_mmdit(tmp_path / "nowhere.safetensors", CONFIG)
    with pytest.raises(UserError, match="no safetensors file"):
        load_mmdit(tmp_path, CONFIG)
    saved(tmp_path / "a.safetensors", {"lm_head.weight": mx.zeros((2, 2))})
    with pytest.raises(UserError, match="got a language model; expected a diffusion transformer"):
        load_mmdit(tmp_path, CONFIG)
    saved(tmp_path / "b.safetensors", weights)
    with pytest.raises(UserError, match="several checkpoints"):
        load_mmdit(tmp_path, CONFIG)


def test_a_missing_shard_is_named(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "gone.safetensors"}})
    )
    with pytest.raises(UserError, match="gone.safetensors: got no such file"):
        read_weights(tmp_path)


def test_what_overflows_in_16_bit_is_told_from_what_is_damaged(tmp_path, weights):
    weights["final_layer.linear.bias"] = mx.full((64,), 1e6)
    path = saved(tmp_path / "model.safetensors", weights)
    load_mmdit(path, CONFIG, mx.bfloat16)
    with pytest.raises(
        UserError, match="1 too large for float16: final_layer.linear.bias; .* bfloat16 or float32"
    ):
        load_mmdit(path, CONFIG, mx.float16)
