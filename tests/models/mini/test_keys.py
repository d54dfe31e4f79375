"""A file with other keys than `mini`'s is told of as what it is, whatever is asked of it first."""

import json
import re

import mlx.core as mx
import pytest

from ditq.core.errors import UserError
from ditq.core.files import read_safetensors, write_safetensors
from ditq.models import load
from ditq.models.diffusionkit.hub import Files
from ditq.models.mini.model import WEIGHTS

WHOLE, METADATA = read_safetensors(WEIGHTS)
MODEL = {key: mx.zeros((1,)) for key in WHOLE}
"""Keys are held against the networks' before shapes are."""
TRANSFORMER = {
    key.removeprefix("transformer."): value for key, value in MODEL.items() if key.startswith("transformer.")
}
PREFIXES = [
    "model.",
    "model.diffusion_model.",
    "net.",
    "ema.",
    "ema_model.",
    "params.",
    "student.",
    "transformer.",
]
CALLS = {
    "encode": lambda model: model.encode(["a fox"]),
    "network": lambda model: model.network(),
    "decode": lambda model: model.decode(mx.zeros((1, 16, 16, 16))),
}


def refused(path, weights, call="network") -> str:
    """What is said of a file with these weights."""
    write_safetensors(path, weights, METADATA)
    with pytest.raises(UserError) as caught:
        CALLS[call](load("mini", path))
    message = str(caught.value)
    assert message.startswith(f"{path}: got ") and "\n" not in message and "missing" not in message
    return message


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_before_every_key_is_named(tmp_path, prefix, call):
    message = refused(tmp_path / "a.safetensors", {prefix + key: value for key, value in MODEL.items()}, call)
    assert f"got {prefix} before every key; expected mini's file: transformer.*" in message
    part = {f"{prefix}transformer.{key}": value for key, value in TRANSFORMER.items()}
    assert f"got {prefix} before every key" in refused(tmp_path / "part.safetensors", part, call)


@pytest.mark.parametrize("prefix", ["", *PREFIXES[:-1]])
def test_a_transformer_alone_is_told(tmp_path, prefix):
    bare = {prefix + key: value for key, value in TRANSFORMER.items()}
    assert "got a transformer alone" in refused(tmp_path / "a.safetensors", bare)


def test_files_of_something_else_are_told(tmp_path):
    lora = {"transformer.x.lora_A.weight": mx.zeros((1, 1))}
    assert "got a LoRA: changes to a model" in refused(tmp_path / "a.safetensors", lora)
    clip = {"text_model.encoder.layers.0.mlp.fc1.weight": mx.zeros((1, 1))}
    assert "got a CLIP text encoder" in refused(tmp_path / "a.safetensors", clip)
    assert "got keys of no known layout (x)" in refused(tmp_path / "a.safetensors", {"x": mx.zeros(1)})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["foo"], "got 1 extra: foo; "),
        (
            [f"ema.{key}" for key in MODEL],
            f"{len(MODEL)} extra: ema.classifier.background.bias, ",
        ),
        (
            ["transformer.x.lora_A.weight", "transformer.x.lora_B.weight"],
            "x.lora_B.weight; .*they are of a LoRA",
        ),
        (
            ["decoder.foo.weight", "classifier.conv9.bias"],
            "2 extra: classifier.conv9.bias, decoder.foo.weight",
        ),
        (["text_encoder.foo.scale_weight"], "1 extra: text_encoder.foo.scale_weight"),
    ],
)
def test_keys_beside_the_model_are_named(tmp_path, keys, told, call):
    more = {key: mx.zeros((1,)) for key in keys}
    assert re.search(told, refused(tmp_path / "a.safetensors", MODEL | more, call))


@pytest.mark.parametrize("kind", ["ditq.quantized_model", "ditq.adaround"])
def test_a_quantized_checkpoint_is_sent_to_its_flag(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"kind": kind, "version": 1}))
    layer = "multimodal_transformer_blocks.0.image_transformer_block.mlp.fc1"
    weights = {f"{layer}.weight": mx.zeros((4, 4), mx.uint32), f"{layer}.scales": mx.ones((4, 1))}
    file = tmp_path / "model.safetensors"
    assert "got a quantized checkpoint in MLX's format, not a model" in refused(
        file, weights | {"x": mx.zeros(1)}
    )
    told = rf"^{re.escape(str(tmp_path))}: got a quantized checkpoint that ditq wrote; .*this folder to --checkpoint"
    with pytest.raises(UserError, match=told):
        load("mini", tmp_path).encode(["a fox"])
    with pytest.raises(UserError, match=told):
        Files("sd3-medium", tmp_path).transformer()
