"""quant_config.json reads back as it was decided, and a wrong one is named."""

import json

import numpy as np
import pytest

from ditq.activations import Analysis, ByTier, Fixed, Grid, read_quant_config, table_of, write_quant_config
from ditq.cli import analyze_activations
from ditq.core.errors import UserError
from ditq.core.files import read_image
from ditq.core.spec import Spec
from tests.activations.invented import FC1, FC2, QKV, folder, weights_of
from tests.cli.test_calibration_commands import fails


def written(tmp_path, analysis=None):
    """A config whose fc2 is shifted per channel and whose fc1 is smoothed."""
    statistics = folder(tmp_path)
    decision = (analysis or Analysis(ByTier())).decide(statistics, weights_of)
    decision.kinds[FC2] = "channels"
    for i, grid in enumerate(decision.grids[FC2]):
        decision.grids[FC2][i] = Grid(grid.bits, grid.scale, np.linspace(0, 1 + i, 48))
    decision.smooth.setdefault(FC1, np.linspace(1, 2, 128).astype(np.float32))
    path = tmp_path / "quant_config.json"
    write_quant_config(path, statistics, decision, {"summary": {}})
    return path, statistics, decision


def test_config_reads_back_as_the_table_that_was_decided(tmp_path):
    path, statistics, decision = written(tmp_path)
    table, expected = read_quant_config(path), table_of(statistics, decision)
    np.testing.assert_array_equal(table.timesteps, np.array([1000, 600, 250], np.float32))
    assert set(table.grids) == set(statistics.layers) == set(expected.grids)
    for layer, grid in table.grids.items():
        for name in ("scale", "qmin", "qmax", "shift", "smooth"):
            mine, theirs = getattr(grid, name), getattr(expected.grids[layer], name)
            assert (mine is None) == (theirs is None), (layer, name)
            if mine is not None:
                np.testing.assert_array_equal(np.array(mine), np.array(theirs))
    assert np.array(table.grids[FC2].shift).shape == (3, 48) and table.grids[FC1].smooth is not None
    bits = [int(np.log2(q + 1)) + 1 for q in np.array(table.grids[QKV[2]].qmax)]
    assert bits == decision.bits[QKV[0]]
    assert np.array_equal(np.array(table.grids[QKV[1]].scale), np.array(table.grids[QKV[0]].scale))


def test_config_is_the_documents(tmp_path):
    path, _, decision = written(tmp_path)
    config = json.loads(path.read_text())
    assert config["scale"] == "step" and config["sigma_map"] == {"0": 1.0, "2": 0.6, "4": 0.25}
    entry = config["per_timestep"]["2"][QKV[1]]
    assert entry["bits"] == decision.bits[QKV[0]][1]
    assert entry["scale"] == pytest.approx(decision.grids[QKV[0]][1].scale)
    assert config["per_timestep"]["2"][FC2]["shift"] == "channels" and FC1 in config["smooth"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="cake"), "cake version 1; expected ditq.quant_config version 1"),
        (lambda c: c.update(scale="max"), "scale: got max; expected step"),
        (
            lambda c: c["per_timestep"]["2"][FC1].update(bits=9),
            "fc1 at step 2: bits: got 9; expected from 2 to 8",
        ),
        (lambda c: c["per_timestep"]["2"][FC1].update(scale=0), "fc1 at step 2: scale: got 0"),
        (lambda c: c["per_timestep"]["2"][FC1].update(scale=float("nan")), "scale: got nan"),
        (lambda c: c["per_timestep"]["2"][FC1].update(shift="some"), "fc1 at step 2: shift: got some"),
        (lambda c: c["per_timestep"]["2"].pop(FC1), f"no '{FC1}'"),
        (lambda c: c["sigma_map"].pop("4"), "no '4'"),
        (lambda c: c.update(per_timestep={}), "got no layers"),
        (lambda c: c["arrays"].update(digest="0"), "npz: got arrays of another config"),
        (lambda c: c["per_timestep"]["2"][FC2].update(shift=0.5), "fc2: shift per channel"),
    ],
)
def test_wrong_configs_are_named(tmp_path, change, message):
    path, _, _ = written(tmp_path)
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
    decision = Analysis(Fixed(8)).decide(statistics, weights_of)
    decision.smooth.clear()
    write_quant_config(path, statistics, decision, {})
    assert not path.with_suffix(".npz").exists()
    assert np.array(read_quant_config(path).grids[QKV[0]].qmax).tolist() == [Spec(8).qmax] * 3


def test_command_writes_config_analysis_and_figures(capsys, tmp_path):
    statistics = folder(tmp_path)
    output = tmp_path / "out" / "quant_config.json"
    argv = ["--stats", str(tmp_path / "layer_statistics.json"), "--output", str(output), "--smooth", "none"]
    analyze_activations.main([*argv, "--dry-run"])
    assert "would decide 5 layers (3 inputs) x 3 timesteps" in capsys.readouterr().out
    analyze_activations.main(argv)
    out = capsys.readouterr().out
    assert "5 layers x 3 timesteps: " in out and "3 figures" in out
    assert read_quant_config(output).grids.keys() == statistics.layers.keys()
    temporal = json.loads((output.parent / "layer_temporal_analysis.json").read_text())
    assert temporal["switching_layers"] and FC1 in temporal["always_a8_layers"]
    for name in ("bits", "scales", "variability"):
        assert read_image(output.parent / "quant_config_plots" / f"{name}.png")[0].std() > 5
    assert "use --force" in fails(capsys, analyze_activations.main, *argv)
    analyze_activations.main([*argv, "--force", "--bits", "6", "--json", "--no-plots"])
    assert json.loads(capsys.readouterr().out)["average_bits"] == 6
    analyze_activations.main([*argv, "--force", "--objective", "error", "--average-bits", "5", "--no-plots"])
    assert json.loads(output.read_text())["summary"]["average_bits"] <= 5
    for wrong, message in (
        (["--bits", "9"], "--bits: got 9; expected from 2 to 8"),
        (["--bits", "8", "--objective", "error"], "--bits: got with --objective error"),
        (["--average-bits", "5"], "--average-bits: got with --objective tiers"),
        (["--norm", "0"], "--norm: got 0.0"),
        (["--stats", str(tmp_path / "none.json")], "no such file"),
    ):
        assert message in fails(capsys, analyze_activations.main, *argv, *wrong, "--force")
