"""Configs and weights of text encoders that do not fit are told; float8 is decoded, integers are refused."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.encoder_configs import clip_config, t5_config
from ditq.models.diffusionkit.encoders import clip_encoder, t5_encoder
from ditq.models.diffusionkit.hub import Files
from tests.models.stored import E4M3, write_stored


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("num_hidden_layers", "3", "num_hidden_layers: got '3'; expected a whole number"),
        ("num_hidden_layers", 10**9, "num_hidden_layers: got 1000000000"),
        ("num_attention_heads", 5, "num_attention_heads: got 5; expected a divisor of hidden_size 32"),
        ("hidden_act", "swish", "hidden_act: got 'swish'; expected 'quick_gelu' or 'gelu'"),
        ("vocab_size", None, "vocab_size: got null"),
    ],
)
def test_a_config_that_makes_no_clip_is_told(small, tmp_path, field, value, told):
    config = json.loads((small.folder / "clip_l" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(UserError, match=f"config.json: {told}"):
        clip_config(tmp_path / "config.json")


@pytest.mark.parametrize("content", ["null", "[]", '"x"', "3"])
def test_no_config_is_told(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    for read in (clip_config, t5_config):
        with pytest.raises(UserError, match="config.json: got .*; expected an object"):
            read(tmp_path / "config.json")


def test_tokens_beyond_an_encoders_table_are_told(small, tmp_path):
    shutil.copytree(small.folder, tmp_path / "model")
    path = tmp_path / "model" / "clip_l" / "model.fp16.safetensors"
    weights = mx.load(str(path))
    table = weights["text_model.embeddings.token_embedding.weight"][:100]
    mx.eval(table)
    mx.save_safetensors(str(path), weights | {"text_model.embeddings.token_embedding.weight": table})
    config = path.with_name("config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"vocab_size": 100}))
    with pytest.raises(
        UserError, match=r"clip_l/model\.fp16\.safetensors: got tokens up to \d+ .*numbers below 100"
    ):
        text.TextEncoders(Files("sd3-medium", tmp_path / "model"), use_t5=False).encode(["the red fox"])


@pytest.mark.parametrize("dtype", ["int8", "F8_E4M3"])
def test_the_encoders_readers_refuse_integers_and_decode_float8(small, tmp_path, dtype):
    shutil.copytree(small.folder / "clip_l", tmp_path / "clip_l")
    path = tmp_path / "clip_l" / "model.fp16.safetensors"
    key = "text_model.encoder.layers.0.mlp.fc1.weight"
    weights = {name: value.numpy() for name, value in small.clip_l.state_dict().items()}
    bits = np.random.default_rng(0).integers(0, 100, weights[key].shape).astype(np.uint8)
    write_stored(path, weights | {key: bits.astype(np.int8) if dtype == "int8" else (dtype, bits)})
    files = Files("sd3-medium", tmp_path)
    if dtype == "int8":
        with pytest.raises(UserError, match=r"1 not floating-point: layers\.0\.linear1\.weight \(int8\)"):
            clip_encoder(files, "l")
    else:
        assert np.array_equal(np.array(clip_encoder(files, "l").layers[0].linear1.weight), E4M3[bits])


def test_t5_in_float8_is_decoded(small, tmp_path):
    shutil.copytree(small.folder / "t5", tmp_path / "t5")
    key = "encoder.block.1.layer.0.SelfAttention.q.weight"
    weights = {name: value.numpy() for name, value in small.t5.state_dict().items()}
    weights.pop("encoder.embed_tokens.weight", None)
    bits = np.random.default_rng(0).integers(0, 100, weights[key].shape).astype(np.uint8)
    scale = np.float32(0.25).reshape(())
    stored = weights | {key: ("F8_E4M3", bits), key.replace("weight", "scale_weight"): scale}
    write_stored(tmp_path / "t5" / "t5xxl.safetensors", stored)
    encoder = t5_encoder(Files("sd3-medium", tmp_path))
    got = dict(tree_flatten(encoder.parameters()))["encoder.layers.1.attention.query_proj.weight"]
    assert np.array_equal(np.array(got), E4M3[bits] / 4)


def test_what_comfyuis_files_hold_beside_the_encoders_is_left_out(small, tmp_path):
    for part in ("clip_l", "t5"):
        shutil.copytree(small.folder / part, tmp_path / part)
    clip = {name: value.numpy() for name, value in small.clip_l.state_dict().items()}
    ids = np.arange(77, dtype=np.int64)[None]
    more = {"logit_scale": np.float32(1).reshape(()), "text_model.embeddings.position_ids": ids}
    write_stored(tmp_path / "clip_l" / "model.fp16.safetensors", clip | more)
    t5 = {name: value.numpy() for name, value in small.t5.state_dict().items()}
    pieces = {"spiece_model": np.zeros(5, np.uint8), "scaled_fp8": ("F8_E4M3", np.zeros(0, np.uint8))}
    write_stored(tmp_path / "t5" / "t5xxl.safetensors", t5 | pieces)
    files = Files("sd3-medium", tmp_path)
    assert clip_encoder(files, "l").layers and t5_encoder(files).encoder.layers
