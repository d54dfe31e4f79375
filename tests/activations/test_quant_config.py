"""quant_config.json reads back as it was decided, and a wrong one is named."""

import json
import shutil
from typing import cast

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import (
    ByTier,
    Decision,
    Fixed,
    PerTimestep,
    Smoothing,
    Static,
    read_quant_config,
    write_quant_config,
)
from ditq.activations.quant_config import _digest
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.core.spec import Spec
from tests.activations.invented import FC1, FC2, QKV, folder, weights_of


def written(tmp_path):
    """A config whose fc2 is shifted per channel and whose fc1 is smoothed."""
    statistics = folder(tmp_path)
    decision = PerTimestep(ByTier()).decide(statistics, weights_of)
    found = decision.rows[FC2]
    shift = np.stack([np.linspace(0, 1 + i, 48) for i in range(3)])
    rows = GridRows.of(found.bits, np.array(found.scale), shift)
    smooth = mx.array(np.linspace(1, 2, 128).astype(np.float32))
    changed = {
        FC2: TimestepGrid(decision.timesteps, rows),
        FC1: TimestepGrid(decision.timesteps, decision.rows[FC1], smooth),
    }
    decision = Decision.of(statistics, {**decision.grids, **changed}, reports=decision.reports)
    path = tmp_path / "quant_config.json"
    write_quant_config(path, statistics, decision, {"summary": {}})
    return path, statistics, decision


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return written(tmp_path_factory.mktemp("config"))[0]


def copied(whole, folder):
    for path in (whole, whole.with_suffix(".npz")):
        shutil.copy(path, folder)
    return folder / whole.name


def test_config_reads_back_as_the_table_that_was_decided(tmp_path):
    path, statistics, decision = written(tmp_path)
    table, expected = read_quant_config(path), decision.table(statistics.layers)
    np.testing.assert_array_equal(table.timesteps, np.array([1000, 600, 250], np.float32))
    assert set(table.grids) == set(statistics.layers) == set(expected.grids)
    rows = {}
    for layer, grid in table.grids.items():
        rows[layer], theirs = grid.at(table.timesteps), expected.grids[layer].at(table.timesteps)
        pairs = {name: (getattr(rows[layer], name), getattr(theirs, name)) for name in vars(theirs)}
        for name, (one, other) in {**pairs, "smooth": (grid.smooth, expected.grids[layer].smooth)}.items():
            assert (one is None) == (other is None), (layer, name)
            if one is not None:
                np.testing.assert_array_equal(np.array(one), np.array(other))
    assert np.array(rows[FC2].shift).shape == (3, 48) and table.grids[FC1].smooth is not None
    assert rows[QKV[2]].bits == decision.bits[QKV[0]]
    assert np.array_equal(np.array(rows[QKV[1]].scale), np.array(rows[QKV[0]].scale))


def test_config_is_the_documents(tmp_path):
    path, _, decision = written(tmp_path)
    config = json.loads(path.read_text())
    assert config["scale"] == "step" and config["sigma_map"] == {"0": 1.0, "2": 0.6, "4": 0.25}
    assert "noise" not in config
    entry = config["per_timestep"]["2"][QKV[1]]
    assert entry["bits"] == decision.bits[QKV[0]][1]
    assert entry["scale"] == decision.scales[QKV[0]][1]
    assert config["per_timestep"]["2"][FC2]["shift"] == "channels" and FC1 in config["smooth"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="cake"), "cake version 1; expected ditq.quant_config version 1"),
        (lambda c: c.update(noise="pink"), "noise: got 'pink'; expected one of rectified-flow"),
        (lambda c: c.update(scale="max"), "scale: got 'max'; expected 'step'"),
        (
            lambda c: c["per_timestep"]["2"][FC1].update(bits=9),
            "per_timestep: 2: multimodal_transformer_blocks.0.image_transformer_block.mlp.fc1: bits: got 9",
        ),
        (
            lambda c: c["per_timestep"]["2"][FC1].update(scale=0),
            "fc1: scale: got 0; expected a finite number from 1.2e-38 to",
        ),
        (lambda c: c["per_timestep"]["2"][FC1].update(scale=float("nan")), "NaN"),
        (lambda c: c["per_timestep"]["2"][FC1].update(shift="some"), "fc1: shift: got 'some'"),
        (lambda c: c["per_timestep"]["2"].pop(FC1), f"no '{FC1}'"),
        (lambda c: c["sigma_map"].pop("4"), "no '4'"),
        (lambda c: c.update(per_timestep={}), "per_timestep: got {}"),
        (lambda c: c["arrays"].update(digest="0"), "npz: got arrays of another config"),
        (lambda c: c["per_timestep"]["2"][FC2].update(shift=0.5), "fc2: shift per channel"),
    ],
)
def test_wrong_configs_are_named(whole, tmp_path, change, message):
    path = copied(whole, tmp_path)
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(UserError) as caught:
        read_quant_config(path)
    assert message in str(caught.value)


def test_config_without_its_arrays_is_named(tmp_path):
    path, _, _ = written(tmp_path)
    path.with_suffix(".npz").unlink()
    with pytest.raises(UserError, match=r"quant_config\.npz: got no such file"):
        read_quant_config(path)


def test_plain_config_needs_no_arrays_and_removes_old_ones(tmp_path):
    path, statistics, _ = written(tmp_path)
    decision = PerTimestep(Fixed(8), smoothing=Smoothing("none")).decide(statistics, weights_of)
    write_quant_config(path, statistics, decision, {})
    assert not path.with_suffix(".npz").exists()
    grid = cast(TimestepGrid, read_quant_config(path).grids[QKV[0]])
    assert np.array(grid.rows.qmax).tolist() == [Spec(8).qmax] * 3


def test_another_noise_process_has_its_own_timesteps(tmp_path):
    path, statistics, decision = written(tmp_path)
    statistics.manifest["noise"] = "ddpm-linear"
    write_quant_config(path, statistics, Decision.of(statistics, decision.grids), {})
    assert json.loads(path.read_text())["noise"] == "ddpm-linear"
    assert np.array_equal(read_quant_config(path).timesteps, statistics.timesteps)
    assert statistics.timesteps[0] == 999 and (np.diff(statistics.timesteps) < 0).all()


def test_a_static_config_has_one_step_of_those_recorded(tmp_path):
    statistics = folder(tmp_path)
    decision = Static(Fixed(8)).decide(statistics, weights_of)
    path = tmp_path / "static.json"
    write_quant_config(path, statistics, decision, {})
    config = json.loads(path.read_text())
    assert len(config["per_timestep"]) == 1 and len(config["sigma_map"]) == 3
    grids = read_quant_config(path).grids
    np.testing.assert_array_equal(
        np.array(grids[QKV[0]].at(np.array([900.0, 10.0], np.float32)).scale),
        np.array(decision.grids[QKV[0]].at(np.array([900.0, 10.0], np.float32)).scale),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["per_timestep"]["2"][FC1].update(scale=-0.1), "fc1: scale: got -0.1"),
        (lambda c: c["per_timestep"]["2"][FC1].update(scale=1e-38), "fc1: scale: got 1e-38"),
        (lambda c: c["per_timestep"]["2"][FC1].update(scale=True), "fc1: scale: got true"),
        (lambda c: c["per_timestep"]["2"][FC1].update(bits=8.0), "fc1: bits: got 8.0"),
        (lambda c: c["per_timestep"]["2"][FC1].update(bits=True), "fc1: bits: got true"),
        (lambda c: c["per_timestep"]["2"][FC1].update(shift=1e30), "fc1: shift: got 1e+30"),
        (
            lambda c: c["sigma_map"].update({"2": 9e18}),
            "sigma_map: 2: got 9e+18; expected a finite number from 0 to 1",
        ),
        (lambda c: c["sigma_map"].update({"2": -0.5}), "sigma_map: 2: got -0.5"),
        (
            lambda c: c["sigma_map"].update({"0": 0.6, "2": 1.0}),
            "timesteps of sigma_map: got [600, 1000, 250]",
        ),
        (
            lambda c: c["sigma_map"].update({"2": 1.0}),
            "got [1000, 1000, 250]; expected one at least; they must fall",
        ),
        (
            lambda c: c["per_timestep"].pop("4"),
            "per_timestep: got no '4'; expected the steps of sigma_map, or one alone",
        ),
        (lambda c: c["per_timestep"].update({"x": c["per_timestep"].pop("4")}), "per_timestep: got 'x'"),
        (lambda c: c["per_timestep"]["0"].pop(FC1), f"per_timestep: 2: got '{FC1}', which step 0 lacks"),
        (
            lambda c: c["arrays"].update(file="../quant_config.npz"),
            "arrays: file: got the path '../quant_config.npz'",
        ),
        (lambda c: c["arrays"].update(file="/etc/passwd"), "arrays: file: got the path '/etc/passwd'"),
        (lambda c: c["smooth"].clear(), "fc1: got smoothing factors of a layer that smooth does not list"),
        (lambda c: c["smooth"].update({FC2: "channels"}), "fc2: got no"),
        (
            lambda c: c["smooth"].update(other="channels"),
            "smooth: got 'other'; expected layers of per_timestep",
        ),
        (lambda c: c["arrays"]["of"].update({FC1: FC2}), "fc1: got no"),
        (lambda c: c.pop("arrays"), "arrays: got nothing: the key is missing"),
        (lambda c: c.update(per_timestep=[]), "per_timestep: got []; expected an object"),
    ],
)
def test_senseless_configs_are_named(whole, tmp_path, change, message):
    test_wrong_configs_are_named(whole, tmp_path, change, message)


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan, 1e-38])
def test_senseless_factors_are_named_whatever_the_digest_says(whole, tmp_path, value):
    path = copied(whole, tmp_path)
    arrays = read_npz(path.with_suffix(".npz"))
    arrays[f"{FC1}::smooth"][3] = value
    write_npz(path.with_suffix(".npz"), arrays)
    config = json.loads(path.read_text())
    config["arrays"]["digest"] = _digest(arrays)
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="fc1::smooth: got .*; expected factors above 0"):
        read_quant_config(path)
