"""The checkpoint folder: codes bit for bit there and back, read by code that is not ours, refused when not whole."""

import json
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.activations import ActivationTable
from ditq.checkpoint import (
    QuantizedCheckpoint,
    check_writable,
    injected,
    outline,
    outline_of_folder,
    read_folder,
    read_model,
    write_folder,
)
from ditq.checkpoint.mlx_folder import folder, shards
from ditq.checkpoint.mlx_folder.size import folder_bytes
from ditq.core.activation_grid import TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models import Conditioning
from ditq.models.mmdit import MMDiT
from ditq.nn import clock_of
from tests.checkpoint.small import CONFIG, IMAGE, TIMESTEPS, block_layers, checkpoint, model, quantize, same
from tests.checkpoint.test_inject import velocities

FC2 = f"{IMAGE}.mlp.fc2"
SPECS = [
    Spec(bits, symmetric, group)
    for bits in (2, 3, 4, 5, 6, 8)
    for symmetric in (True, False)
    for group in (None, 32)
]
SPECS += [Spec(4, True, 64), Spec(4, False, 64)]


@pytest.fixture(scope="module")
def network() -> MMDiT:
    return model()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_everything_comes_back_bit_for_bit(tmp_path, network, spec):
    before = replace(checkpoint(network, spec, smooth=True), meta={"method": "rounding", "bits": spec.bits})
    write_folder(tmp_path, network, before)
    same(before, read_folder(tmp_path))


@pytest.mark.parametrize("spec", [Spec(4), Spec(8, False), Spec(3, False, 32)], ids=str)
def test_scales_of_earlier_versions_take_32_bits_or_move(tmp_path, network, spec):
    now = checkpoint(network, spec, activations=False)
    weights = {path: replace(weight, scale=weight.scale * 1.0001) for path, weight in now.weights.items()}
    before = replace(now, weights=weights)
    write_folder(tmp_path / "whole", network, before)
    same(before, read_folder(tmp_path / "whole"))
    write_folder(tmp_path / "half", network, before, scales="float16")
    after = read_folder(tmp_path / "half")
    same(before, after, ("codes", "zero"))
    for path, weight in before.weights.items():
        assert mx.array_equal(after.weights[path].scale, weight.scale.astype(mx.float16).astype(mx.float32))


@pytest.mark.parametrize("scales", [None, "float16", "float32"])
@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
def test_parameters_and_scales_are_stored_as_asked(tmp_path, network, dtype, scales):
    parts = checkpoint(network, Spec(4, True, 32))
    write_folder(tmp_path, network, parts, dtype, scales)
    stored = mx.load(str(tmp_path / "model.safetensors"))
    assert stored[f"{FC2}.weight"].dtype == mx.uint32
    assert {stored[f"{path}.{part}"].dtype for path in parts.weights for part in ("scales", "biases")} == {
        mx.float32 if scales == "float32" else mx.float16
    }
    packed = {f"{path}.{part}" for path in parts.weights for part in ("weight", "scales", "biases")}
    before = dict(tree_flatten(network.parameters()))
    for name, array in stored.items():
        if name not in packed:
            assert mx.array_equal(array, before[name].astype(dtype)), name
    same(parts, read_folder(tmp_path))


def test_parameters_beyond_float16_are_refused_and_stored_as_bfloat16(tmp_path):
    large = model()
    large.final_layer.linear.bias = large.final_layer.linear.bias + 1e5
    with pytest.raises(UserError, match="final_layer.linear.bias: got values beyond float16; .*--dtype"):
        write_folder(tmp_path / "out", large, checkpoint(large))
    assert not (tmp_path / "out").exists()
    write_folder(tmp_path / "out", large, checkpoint(large), mx.bfloat16)
    read_model(tmp_path / "out")


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("spec", [Spec(4), Spec(3, False, 32), Spec(8)], ids=str)
@pytest.mark.parametrize("dtype", [mx.float16, mx.float32])
def test_the_size_is_known_before_anything_is_written(tmp_path, network, spec, dtype, activations, smooth):
    parts = checkpoint(network, spec, smooth, activations)
    _, layouts = check_writable(network, parts, dtype)
    told = folder_bytes(network, parts, layouts, dtype)
    files = write_folder(tmp_path, network, parts, dtype)
    size = sum(file.stat().st_size for file in files)
    assert abs(told - size) < 0.002 * size


def mixed(network: MMDiT) -> QuantizedCheckpoint:
    """Another number of bits and another granularity from layer to layer."""
    choices = [Spec(4), Spec(8, True, 32), Spec(3, False, 64), Spec(4, True, 64), Spec(6), Spec(8, False)]
    layers = block_layers(network).items()
    weights = {path: quantize(layer.weight, choices[i % 6]) for i, (path, layer) in enumerate(layers)}
    return QuantizedCheckpoint("small", weights)


def stock(path) -> MMDiT:
    """What a program that knows MLX and nothing of ditq does with the folder."""
    config = json.loads((path / "config.json").read_text())
    bare = MMDiT(CONFIG)
    nn.quantize(bare, class_predicate=lambda name, module: config["quantization"].get(name, False))
    weights = {}
    for file in path.glob("model*.safetensors"):
        weights |= mx.load(str(file))
    bare.load_weights(list(weights.items()), strict=True)
    return bare


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("kind", ["mixed", "per channel", "grouped"])
def test_code_that_is_not_ours_computes_the_same_w4a16(tmp_path, network, kind, smooth):
    if kind == "mixed":
        parts = mixed(network)
    else:
        parts = checkpoint(network, Spec(4, True, None if kind == "per channel" else 32), smooth)
    write_folder(tmp_path, network, parts, mx.float32, "float32", shard=200_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    theirs = stock(tmp_path)
    assert sum(isinstance(m, nn.QuantizedLinear) for _, m in theirs.named_modules()) == len(parts.weights)
    with injected(network, parts, activations=False):
        wanted = velocities(network)
    for other in (theirs, read_model(tmp_path, activations=False), read_model(tmp_path, False, "packed")):
        for got, velocity in zip(velocities(other), wanted, strict=True):
            assert np.abs(got - velocity).max() < 2e-5 * np.abs(velocity).max()


@pytest.mark.parametrize("smooth", [False, True])
def test_the_folder_alone_computes_what_injection_does(tmp_path, network, smooth):
    parts = checkpoint(network, Spec(4), smooth)
    before = dict(tree_flatten(network.parameters()))
    write_folder(tmp_path, network, parts, mx.float32)
    assert all(mx.array_equal(before[key], value) for key, value in tree_flatten(network.parameters()))
    with injected(network, read_folder(tmp_path)):
        wanted = velocities(network)
    alone = read_model(tmp_path)
    assert clock_of(alone) is not None
    for got, velocity in zip(velocities(alone), wanted, strict=True):
        assert np.abs(got - velocity).mean() < 0.005 * np.abs(velocity).mean()


def test_a_16_bit_model_stays_one(tmp_path):
    half = model()
    half.set_dtype(mx.float16)
    parts = checkpoint(half, Spec(4), smooth=True)
    write_folder(tmp_path, half, parts)
    for options in ((), (False,), (False, "packed")):
        alone = read_model(tmp_path, *options, dtype=mx.float16)
        assert alone.dtype == mx.float16
        inputs = alone.prepare(Conditioning(mx.zeros((1, 7, 40)), mx.ones((1, 48))), mx.array([500.0]))
        clock = clock_of(alone)
        if clock is not None:
            clock.follow(np.array([500.0]))
        assert inputs.by_step["modulation"].dtype == mx.float16
        assert alone(mx.zeros((1, 8, 8, 16), mx.float16), **inputs.at(0)).dtype == mx.float16


def test_an_earlier_run_leaves_nothing_behind(tmp_path, network):
    write_folder(tmp_path, network, checkpoint(network, smooth=True), shard=200_000)
    files = write_folder(tmp_path, network, mixed(network))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(files) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("at", ["write_safetensors", "write_npz", "write_json"])
def test_a_run_that_was_killed_leaves_no_checkpoint_and_can_be_repeated_to_the_bit(
    tmp_path, network, at, monkeypatch
):
    parts = checkpoint(network, smooth=True)
    write_folder(tmp_path / "whole", network, parts)
    write_folder(tmp_path / "killed", network, mixed(network))
    with monkeypatch.context() as patch:
        place = shards if at == "write_safetensors" else folder
        patch.setattr(place, at, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_folder(tmp_path / "killed", network, parts)
    with pytest.raises(UserError, match="config.json: got no such file"):
        read_folder(tmp_path / "killed")
    write_folder(tmp_path / "killed", network, parts)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "killed").iterdir())
    for name in names:
        if not name.endswith(".npz"):  # whose entries carry the time
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    same(read_folder(tmp_path / "whole"), read_folder(tmp_path / "killed"))


def test_tables_of_one_row_are_kept(tmp_path, network):
    parts = checkpoint(network)
    grids = {
        path: TimestepGrid(TIMESTEPS[:1], grid.rows.take(np.array([0])), grid.smooth)
        for path, grid in parts.activations.grids.items()
    }
    static = replace(parts, activations=ActivationTable(TIMESTEPS[:1], grids))
    write_folder(tmp_path, network, static)
    same(static, read_folder(tmp_path))


@pytest.mark.parametrize("spec", [Spec(4), Spec(3, False, 32), Spec(8, False)], ids=str)
@pytest.mark.parametrize("activations", [False, True])
def test_the_outline_is_known_without_the_codes(tmp_path, network, spec, activations):
    parts = checkpoint(network, spec, activations=activations)
    write_folder(tmp_path, network, parts)
    (tmp_path / "model.safetensors").unlink()
    assert outline_of_folder(tmp_path) == outline(parts)
    if spec.group_size == 32:
        assert outline(parts).bits_per_weight == 3 + 2 * 16 / 32  # a scale and a bias in 32 columns
