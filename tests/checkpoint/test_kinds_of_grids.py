"""Checkpoints of every kind of grid: stored, read again, drawn with, and refused by versions that do not know them."""

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint import (
    QuantizedCheckpoint,
    inject,
    outline_of_folder,
    read_folder,
    read_model,
    write_folder,
)
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import round_to_nearest
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.evaluation.variants import fingerprint_of
from ditq.models.base import Conditioning
from ditq.models.unet import UNet
from ditq.nn import clock_of
from tests.checkpoint.small import TIMESTEPS, checkpoint, model
from tests.models.unet.small import SMALL, inputs

KINDS = ("dual-scale", "per-token")


def rows_of(kind: str, old: GridRows) -> GridRows:
    steps = len(TIMESTEPS)
    if kind == "per-token":
        return GridRows.of(old.bits, np.ones(steps), per_token=np.full(steps, 0.9))
    return GridRows.of(old.bits, np.array(old.scale), below=2.0 ** np.arange(-3, steps - 3))


def of_kind(kind: str, whole: QuantizedCheckpoint) -> QuantizedCheckpoint:
    """The checkpoint with grids of this kind for all attention and fc2 inputs; the others stay as they are."""
    table = whole.activations
    assert table is not None
    grids = {
        path: TimestepGrid(TIMESTEPS, rows_of(kind, grid.at(TIMESTEPS))) if "fc1" not in path else grid
        for path, grid in table.grids.items()
    }
    return replace(whole, activations=ActivationTable(TIMESTEPS, grids))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_back_the_grids_and_the_same_network(kind, tmp_path):
    made = of_kind(kind, checkpoint(model(), Spec(4, True, 32), name="small"))
    write_folder(tmp_path, model(), made, mx.float32)
    told = json.loads((tmp_path / "config.json").read_text())["activation_quantization"]
    assert told["kinds"] == {kind: "0.1.0"} and outline_of_folder(tmp_path).timesteps == 4
    found = read_folder(tmp_path)
    for path, grid in made.activations.grids.items():
        arrays = found.activations.grids[path].rows.arrays
        assert arrays.keys() == grid.rows.arrays.keys()
        assert all(mx.array_equal(arrays[name], array) for name, array in grid.rows.arrays.items())
    assert fingerprint_of(replace(found, meta={})) == fingerprint_of(made)
    assert fingerprint_of(made) != fingerprint_of(checkpoint(model(), Spec(4, True, 32), name="small"))
    network = read_model(tmp_path)
    assert clock_of(network) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_a_later_version_are_refused_with_that_version(kind, tmp_path):
    write_folder(tmp_path, model(), of_kind(kind, checkpoint(model(), Spec(4, True, 32))), mx.float32)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["activation_quantization"]["kinds"] = {"log2": "9.9.0"}
    path.write_text(json.dumps(config))
    for read in (read_folder, read_model, outline_of_folder):
        with pytest.raises(UserError, match=r"kinds: got 'log2'.*use ditq 9\.9\.0 or a later version"):
            read(tmp_path)
    config["activation_quantization"]["kinds"] = {}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"kinds of grids: got {kind}; expected none"):
        read_folder(tmp_path)


def test_arrays_that_no_kind_has_are_refused(tmp_path):
    write_folder(tmp_path, model(), of_kind("per-token", checkpoint(model(), Spec(4, True, 32))), mx.float32)
    arrays = read_npz(tmp_path / "activations.npz")
    name = next(key for key in arrays if key.endswith("::per_token"))
    write_npz(tmp_path / "activations.npz", {**arrays, name: arrays[name] * 2})
    with pytest.raises(UserError, match="per_token: got 1.8"):
        read_folder(tmp_path)
    write_npz(tmp_path / "activations.npz", {**arrays, name.replace("per_token", "colour"): arrays[name]})
    with pytest.raises(UserError, match="colour"):
        read_folder(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_unet_runs_on_them(kind):
    float_network = UNet(SMALL)
    modules, spec = capture.layers(float_network), Spec(8)
    weights, grids = {}, {}
    for path in float_network.anatomy.paths("block"):
        matrix = capture.matrix(modules[path])
        weights[path] = QuantizedWeight(*round_to_nearest(matrix, spec), spec)
        grids[path] = TimestepGrid(TIMESTEPS, rows_of(kind, GridRows.of([8] * 4, np.full(4, 0.05))))
    quantized = capture.sharing(float_network)
    inject(
        quantized, QuantizedCheckpoint("unet", weights, ActivationTable(TIMESTEPS, grids)), backend="codes"
    )
    clock = clock_of(quantized)
    assert clock is not None
    clock.follow(np.array([300.0]))
    latents, text = (mx.array(array) for array in inputs(SMALL, 2, 8, 8))
    predicted = [
        one(latents, **one.prepare(Conditioning(text), mx.array([300.0])).at(0))
        for one in (float_network, quantized)
    ]
    assert 0 < float(mx.linalg.norm(predicted[1] - predicted[0]) / mx.linalg.norm(predicted[0])) < 0.1
