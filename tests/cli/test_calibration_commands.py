"""The two Phase 1 commands with the documented flags."""

import json
import os

import numpy as np
import pytest

from ditq.calibration import read_points
from ditq.cli import generate_calibration_data, sample_cali_data
from ditq.core import files
from ditq.core.errors import UserError

DRY = ["--num-fid-samples", 8, "--num-sampling-steps", 20, "--num-selected-steps", 5]
"""The quick run of the documents."""


def test_quick_run_of_the_documents(capsys, fails, tmp_path):
    path = tmp_path / "dry_run_cali.npz"
    sample_cali_data.main(
        [str(arg) for arg in [*DRY, "--output", path, "--model", "mini", "--batch-size", 8]]
    )
    assert "40 points (8 trajectories x 5 of 20 steps), x (16, 16, 16), 8 prompts" in capsys.readouterr().out
    points = read_points(path)
    assert points.meta["model"] == "mini" and len(points.prompts) == 8
    assert points.ts.max() == 1000.0 and points.ts.min() == pytest.approx(50.0)
    assert os.listdir(tmp_path) == ["dry_run_cali.npz"]
    noise = points.xs[points.ts == 1000.0].astype(np.float32)
    assert abs(noise.std() - 1) < 0.02
    assert "use --resume, --force" in fails(sample_cali_data.main, *DRY, "--output", path, "--model", "mini")


def test_dry_run_tells_points_disk_and_time(capsys, tmp_path):
    sample_cali_data.main(["--model", "mini", "--dry-run", "--output", str(tmp_path / "x.npz")])
    out = capsys.readouterr().out
    assert "points to collect: 6,400, 256 trajectories x 25 of 100 steps, 64 prompts" in out
    assert "disk: 106.6 MB" in out and "on this machine as it is now" in out and os.listdir(tmp_path) == []
    generate_calibration_data.main(["--model", "mini", "--dry-run", "--calib-dir", str(tmp_path / "x")])
    out = capsys.readouterr().out
    assert "trajectories to record: 40 of 128x128, 1,120 points" in out
    assert "disk: 1" in out and os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--num-selected-steps", 101], "selected steps: got 101; expected from 1 to the 100 sampling steps"),
        (["--num-fid-samples", 0], "--num-fid-samples: got 0"),
        (["--prompts-file", "nowhere.txt"], "nowhere.txt: got no such file"),
        (["--latent-size", 7], "picture height: got 56"),
        (["--cfg-weight", -1], "--cfg-weight: got -1"),
    ],
)
def test_bad_flags_are_explained(fails, tmp_path, argv, message):
    output = tmp_path / "x.npz"
    assert message in fails(sample_cali_data.main, "--model", "mini", "--output", output, *argv)
    assert os.listdir(tmp_path) == []


def test_full_disk_is_explained_and_loses_nothing(fails, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    argv = [*DRY, "--output", path, "--model", "mini", "--batch-size", 8]

    def full(*_):
        raise UserError(str(path), got="cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr("ditq.calibration.points.write_npz", full)
        assert "No space left" in fails(sample_cali_data.main, *argv)
    assert len(list((tmp_path / "x.npz.parts").glob("trajectory_*.npz"))) == 8
    sample_cali_data.main([str(arg) for arg in [*argv, "--resume"]])
    assert len(read_points(path)) == 40


def test_images_command_fills_the_folder_of_the_documents(capsys, fails, tmp_path):
    argv = [
        "--model",
        "mini",
        "--num-images",
        "3",
        "--num-steps",
        "4",
        "--cfg-weight",
        "7.5",
        "--batch-size",
        "2",
    ]
    folder = tmp_path / "calibration_data"
    (folder / "mine").mkdir(parents=True)
    generate_calibration_data.main([*argv, "--calib-dir", str(folder), "--json"])
    assert json.loads(capsys.readouterr().out)["points"] == 12
    assert len(os.listdir(folder / "samples")) == 12 and len(os.listdir(folder / "images")) == 3
    assert files.read_json(folder / "manifest.json")["model"] == "mini"
    assert "earlier run" in fails(generate_calibration_data.main, *argv, "--calib-dir", folder)
    generate_calibration_data.main([*argv, "--calib-dir", str(folder), "--resume"])
    assert "(0 new)" in capsys.readouterr().out
    generate_calibration_data.main([*argv, "--calib-dir", str(folder), "--force"])
    assert "(3 new)" in capsys.readouterr().out
    assert (folder / "mine").exists()
