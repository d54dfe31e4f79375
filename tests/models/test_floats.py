"""Float8 files hold the numbers of a table; scales are multiplied in; integers are refused by name."""

import json

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.models import load
from ditq.models.floats import read_tensors
from ditq.models.loading import read_weights
from ditq.models.mini.model import WEIGHTS
from ditq.models.mmdit.loading import load_mmdit
from tests.models.families import FAMILIES, stability_weights
from tests.models.stored import E4M3, E5M2, Stored, write_stored

CONFIG = FAMILIES["sd3-medium"]
FC1 = "joint_blocks.1.x_block.mlp.fc1"
TABLES = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}
BYTES = np.arange(256, dtype=np.uint8)


def nearest(values: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The byte of the nearest float8, by search."""
    order = np.argsort(np.where(np.isfinite(table), table, np.inf))[: int(np.isfinite(table).sum())]
    centres = (table[order][1:] + table[order][:-1]) / 2
    return order[np.searchsorted(centres, values)].astype(np.uint8)


@pytest.mark.parametrize("dtype", TABLES)
def test_every_byte_is_decoded_as_the_format_says(tmp_path, dtype):
    path = write_stored(tmp_path / "a.safetensors", {"w": (dtype, BYTES), "half": np.float16([1.5])})
    weights, float8 = read_tensors(path)
    assert float8 == {"w"}
    assert weights["w"].dtype == mx.float16 and weights["half"].tolist() == [1.5]
    assert np.array_equal(np.array(weights["w"].astype(mx.float32)), TABLES[dtype], equal_nan=True)


@pytest.mark.parametrize("dtype", TABLES)
def test_a_float8_transformer_loads_as_the_numbers_that_it_means(tmp_path, dtype):
    stored: dict[str, Stored | np.ndarray] = dict(stability_weights(CONFIG))
    wanted = {}
    for key, value in stability_weights(CONFIG).items():
        if value.ndim == 2:
            stored[key] = dtype, nearest(value, TABLES[dtype])
            wanted[key] = TABLES[dtype][stored[key][1]]
    network = load_mmdit(write_stored(tmp_path / "a.safetensors", stored), CONFIG, mx.float32)
    block = network.multimodal_transformer_blocks[1].image_transformer_block
    assert np.array_equal(np.array(block.mlp.fc1.weight), wanted[f"{FC1}.weight"])
    q = wanted["joint_blocks.1.x_block.attn.qkv.weight"][:64]
    assert np.array_equal(np.array(block.attn.q_proj.weight), q)
    assert np.abs(q).max() < 4


@pytest.mark.parametrize("end", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("shape", [(), (1,), (256,), (256, 1)])
def test_scales_are_multiplied_in(tmp_path, end, shape):
    scale = np.random.default_rng(0).uniform(0.001, 0.01, shape).astype(np.float32)
    weights = stability_weights(CONFIG)
    bits = nearest(weights[f"{FC1}.weight"] / scale.reshape(-1, 1), E4M3)
    described = np.frombuffer(json.dumps({"format": "float8_e4m3fn"}).encode(), np.uint8)
    stored = weights | {
        f"{FC1}.weight": ("F8_E4M3", bits),
        f"{FC1}.{end}": scale,
        f"{FC1}.input_scale": np.float32(3.0).reshape(()),
        f"{FC1}.scale_input": np.float32(3.0).reshape(()),
        f"{FC1}.comfy_quant": described,
        "scaled_fp8": ("F8_E4M3", np.zeros(2, np.uint8)),
    }
    stored = {f"model.diffusion_model.{key}": value for key, value in stored.items()}
    network = load_mmdit(write_stored(tmp_path / "a.safetensors", stored), CONFIG, mx.float32)
    got = np.array(network.multimodal_transformer_blocks[1].image_transformer_block.mlp.fc1.weight)
    assert np.array_equal(got, E4M3[bits] * scale.reshape(-1, 1))
    assert np.abs(got - weights[f"{FC1}.weight"]).max() < 0.05


def test_scales_in_another_shard_are_multiplied_in(tmp_path):
    bits = BYTES[:8].reshape(2, 4)
    write_stored(tmp_path / "a-00001-of-00002.safetensors", {"x.weight": ("F8_E4M3", bits)})
    write_stored(tmp_path / "a-00002-of-00002.safetensors", {"x.scale_weight": np.float32([0.5])})
    weights = read_weights(tmp_path)
    assert weights.keys() == {"x.weight"} and weights["x.weight"].dtype == mx.float32
    assert np.array_equal(np.array(weights["x.weight"]), E4M3[bits] / 2)


def test_scales_that_do_not_fit_and_formats_that_are_not_decoded_are_named(tmp_path):
    weight = {"x.weight": ("F8_E4M3", BYTES[:8].reshape(2, 4))}
    path = write_stored(tmp_path / "a.safetensors", weight | {"x.weight_scale": np.ones((1, 2), np.float32)})
    with pytest.raises(UserError, match=r"a\.safetensors: x\.weight_scale: got a scale of shape \(1, 2\)"):
        read_weights(path)
    described = np.frombuffer(b'{"format": "nvfp4"}', np.uint8)
    path = write_stored(tmp_path / "a.safetensors", weight | {"x.comfy_quant": described})
    with pytest.raises(UserError, match=r"x\.comfy_quant: got the format nvfp4; expected float8_e4m3fn or"):
        read_weights(path)


def test_float64_is_read(tmp_path):
    values = np.random.default_rng(0).standard_normal((3, 4))
    weights = read_weights(
        write_stored(tmp_path / "a.safetensors", {"w": values, "b": ("BF16", np.uint16([0x3FC0]))})
    )
    assert np.array_equal(np.array(weights["w"]), values.astype(np.float32))
    assert weights["b"].dtype == mx.bfloat16 and weights["b"].item() == 1.5


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_integers_where_numbers_belong_are_refused_by_name(tmp_path, dtype):
    weights = stability_weights(CONFIG)
    weights[f"{FC1}.weight"] = np.ones_like(weights[f"{FC1}.weight"]).astype(dtype)
    path = write_stored(tmp_path / "a.safetensors", weights)
    name = r"multimodal_transformer_blocks\.1\.image_transformer_block\.mlp\.fc1\.weight"
    with pytest.raises(
        UserError, match=rf"a\.safetensors: got 1 not floating-point: {name} \({np.dtype(dtype).name}"
    ):
        load_mmdit(path, CONFIG, mx.float32)


def test_minis_reader_decodes_and_refuses_too(tmp_path):
    key = "text_encoder.position.weight"
    weights, metadata = mx.load(str(WEIGHTS), return_metadata=True)
    bits = mx.to_fp8(weights[key])
    mx.save_safetensors(str(tmp_path / "int.safetensors"), weights | {key: bits}, metadata)
    with pytest.raises(
        UserError, match=r"int\.safetensors \(text_encoder\): got 1 not floating-point: position\.weight"
    ):
        load("mini", tmp_path / "int.safetensors").encode(["a fox"])
    rounded = weights | {key: mx.from_fp8(bits, dtype=mx.float16)}
    one = weights | {"text_encoder.position.scale_weight": mx.array([1.0])}
    mx.save_safetensors(str(tmp_path / "scaled.safetensors"), one, metadata)
    assert mx.array_equal(
        load("mini", tmp_path / "scaled.safetensors").encode(["a fox"]).tokens,
        load("mini").encode(["a fox"]).tokens,
    )
    two = rounded | {"text_encoder.position.scale_weight": mx.array([2.0])}
    mx.save_safetensors(str(tmp_path / "scaled.safetensors"), two, metadata)
    with pytest.raises(
        UserError, match=r"position\.scale_weight: got a scale of 2 for a weight that is not in float8"
    ):
        load("mini", tmp_path / "scaled.safetensors").encode(["a fox"])


SCALES = {
    "zero": (
        "x.scale_weight",
        np.float32([0]),
        "x.scale_weight: got a scale of 0; expected a finite number above 0",
    ),
    "negative": (
        "x.weight_scale",
        np.float32([1, -2]),
        "x.weight_scale: got a scale of -2; expected a finite",
    ),
    "nan": ("x.weight_scale", np.float32([np.nan]), "x.weight_scale: got a scale of nan; expected a finite"),
    "infinite": (
        "x.weight_scale",
        np.float32([np.inf]),
        "x.weight_scale: got a scale of inf; expected a finite",
    ),
    "three rows": ("x.scale_weight", np.ones(3, np.float32), r"x.scale_weight: got a scale of shape \(3,\)"),
}


@pytest.mark.parametrize("case", SCALES)
def test_a_scale_is_positive_and_finite(tmp_path, case):
    key, scale, told = SCALES[case]
    stored = {"x.weight": ("F8_E4M3", BYTES[:8].reshape(2, 4)), key: scale}
    path = write_stored(tmp_path / "a.safetensors", stored)
    with pytest.raises(UserError, match=rf"a\.safetensors: {told}"):
        read_weights(path)


def test_two_scales_of_one_matrix_are_refused(tmp_path):
    stored = {
        "x.weight": ("F8_E4M3", BYTES[:8].reshape(2, 4)),
        "x.scale_weight": np.float32([0.5]),
        "x.weight_scale": np.float32([0.5]),
    }
    path = write_stored(tmp_path / "a.safetensors", stored)
    with pytest.raises(
        UserError, match="got both x.scale_weight and x.weight_scale; expected one scale of x.weight"
    ):
        read_weights(path)


def test_a_matrix_whose_scale_is_missing_is_named(tmp_path):
    float8, marker = ("F8_E4M3", BYTES[:8].reshape(2, 4)), ("F8_E4M3", np.zeros(2, np.uint8))
    stored = {"module.a.x.weight": float8, "module.a.shared.weight": float8, "module.b.x.weight": float8}
    plain = read_weights(write_stored(tmp_path / "a.safetensors", stored))
    other = read_weights(write_stored(tmp_path / "a.safetensors", stored | {"module.c.scaled_fp8": marker}))
    assert plain.keys() == other.keys() == {"a.x.weight", "a.shared.weight", "b.x.weight"}
    described = np.frombuffer(b'{"format": "float8_e4m3fn"}', np.uint8)
    for mark in ({"module.a.scaled_fp8": marker}, {"module.a.x.comfy_quant": described}):
        path = write_stored(tmp_path / "a.safetensors", stored | mark)
        with pytest.raises(
            UserError, match=r"a\.safetensors: a\.x\.weight: got a float8 matrix without its scale"
        ):
            read_weights(path)
