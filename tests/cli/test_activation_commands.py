"""Steps 2A and 3A: the statistics of activations, and the grids that are decided from them."""

import json
import os
import signal
import subprocess
import sys
import time

from ditq.activations import read_quant_config
from ditq.cli import analyze_activations, collect_layer_activations, measure_damage
from ditq.core.files import read_image
from ditq.diagnostics.layer_files import MANIFEST, step_file
from tests.activations.invented import FC1, folder
from tests.house.checker import ROOT


def test_statistics_are_collected_as_the_documents_say(calibration, capsys, fails, tmp_path):
    out, main = tmp_path / "activations", collect_layer_activations.main
    argv = ["--calib-dir", str(calibration), "--num-images", "2", "--stride", "5", "--output-dir", str(out)]
    main([*argv, "--dry-run"])
    assert "would replay 2 pictures x 2 steps and observe 37 inputs of 57 layers" in capsys.readouterr().out
    assert not out.exists()
    main(argv)
    assert "2 pictures x 2 steps, 57 layers" in capsys.readouterr().out
    index = json.loads((out / "timestep_stats" / "step_5_index.json").read_text())
    entry = next(iter(index["layers"].values()))
    assert entry["tensor_absmax"] >= entry["hist_p999"] >= entry["hist_p99"] >= entry["hist_p50"] > 0
    assert "use --resume" in fails(main, *argv)
    main([*argv, "--force", "--json"])
    assert json.loads(capsys.readouterr().out)["images"] == 2
    wrong = fails(main, *argv, "--model", "sd3-medium")
    assert "--model sd3-medium: got calibration data of mini" in wrong
    assert "expected where the merged statistics go" in fails(main, "--merge", tmp_path)


def test_a_killed_collection_resumes_to_identical_files(calibration, tmp_path):
    flags = ["--calib-dir", str(calibration), "--num-images", "2", "--stride", "1", "--output-dir"]
    step = [sys.executable, "-m", "src.collect_layer_activations", *flags]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    collect_layer_activations.main([*flags, str(whole)])
    child = subprocess.Popen([*step, str(killed)], cwd=ROOT)
    until = time.monotonic() + 60
    while not step_file(killed, 1).exists() and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    subprocess.run([*step, str(killed), "--resume"], cwd=ROOT, check=True)
    names = {path.relative_to(whole) for path in whole.rglob("*.*")}
    assert len(names) == 21
    assert names <= {path.relative_to(killed) for path in killed.rglob("*.*")}
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_command_writes_config_analysis_and_figures(capsys, fails, tmp_path):
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
    assert "use --force" in fails(analyze_activations.main, *argv)
    analyze_activations.main([*argv, "--force", "--bits", "6", "--json", "--no-plots"])
    assert json.loads(capsys.readouterr().out)["average_bits"] == 6
    analyze_activations.main([*argv, "--force", "--objective", "error", "--average-bits", "5", "--no-plots"])
    assert json.loads(output.read_text())["summary"]["average_bits"] <= 5
    for wrong, message in (
        (["--bits", "9"], "--bits: got 9; expected from 2 to 8"),
        (["--bits", "8", "--objective", "error"], "--bits: got with --objective error"),
        (["--average-bits", "5"], "--average-bits: got with --objective tiers"),
        (["--norm", "0"], "--norm: got 0; expected from 1 to 100"),
        (["--stats", str(tmp_path / "none.json")], "no such file"),
    ):
        assert message in fails(analyze_activations.main, *argv, *wrong, "--force")


def test_damage_is_measured_and_decides(calibration, capsys, fails, tmp_path):
    out, main = tmp_path / "damage.npz", measure_damage.main
    argv = ["--calibration", str(calibration), "--out", str(out), "--num-images", "1", "--stride", "5"]
    argv += ["--noise-steps", "2"]
    main([*argv, "--dry-run"])
    assert "every input on 1 pictures: gradients at 2 steps, noise at 2" in capsys.readouterr().out
    assert not out.exists()
    main(argv)
    assert "37 inputs x 2 steps; of an error of the prediction, " in capsys.readouterr().out
    assert "use --resume, --force" in fails(main, *argv)
    main([*argv, "--resume", "--json"])
    assert json.loads(capsys.readouterr().out)["inputs"] == 37
    assert "--model sd1.5: got calibration data of mini" in fails(main, *argv, "--model", "sd1.5")
    collected = [
        "--calib-dir",
        str(calibration),
        "--num-images",
        "1",
        "--stride",
        "5",
        "--out",
        str(tmp_path),
    ]
    collect_layer_activations.main(collected)
    statistics = ["--stats", str(tmp_path / "layer_statistics.json"), "--smooth", "none", "--no-plots"]
    capsys.readouterr()
    analyze_activations.main([*statistics, "--bits", "4", "--damage", str(out)])
    assert "predicted mean squared error of the latents " in capsys.readouterr().out
    config = json.loads((tmp_path / "quant_config.json").read_text())
    assert config["summary"]["predicted_damage"] > 0 and len(config["method"]["damage"]) == 16
    other = folder(tmp_path / "other")
    wrong = fails(analyze_activations.main, "--stats", str(other.folder / MANIFEST), "--damage", str(out))
    assert "damage.npz: model: got mini; expected invented, as the statistics say" in wrong
