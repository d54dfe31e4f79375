"""The trajectory figure, and the command that makes it."""

import numpy as np
import pytest

from ditq.cli import generate_calibration_data, show_trajectory
from ditq.core.files import read_image
from ditq.plots.trajectory import trajectory_figure


def test_each_picture_stands_under_its_noise_level_and_beside_its_prompt():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    figure = trajectory_figure(pictures, [1.0, 0.5, 0.0], ["a fox in the snow", "an owl"])
    axes = np.array(figure.axes).reshape(2, 3)
    for row in range(2):
        for column in range(3):
            assert np.array_equal(axes[row, column].images[0].get_array(), pictures[row, column])
    assert [axis.get_title() for axis in axes[0]] == [
        r"$\sigma$ = 1.00",
        r"$\sigma$ = 0.50",
        r"$\sigma$ = 0.00",
    ]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["a fox in\nthe snow", "an\nowl"]


def test_command_draws_the_recorded_trajectories(capsys, tmp_path):
    folder, out = tmp_path / "data", tmp_path / "trajectory.png"
    collect = ["--model", "mini", "--num-images", "2", "--num-steps", "4", "--calib-dir", str(folder)]
    generate_calibration_data.main(collect)
    show = ["--calib-dir", str(folder), "--out", str(out)]
    show_trajectory.main([*show, "--images", "0", "1", "--columns", "3"])
    assert "2 trajectories at 4 noise levels" in capsys.readouterr().out
    assert read_image(out)[0].std() > 10
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text("{}")
    for wrong, message in [("none", "no such file"), ("other", "expected ditq.calibration_images version 1")]:
        with pytest.raises(SystemExit) as caught:
            show_trajectory.main(["--calib-dir", str(tmp_path / wrong), "--out", str(tmp_path / "x.png")])
        assert caught.value.code == 2 and message in capsys.readouterr().err
    for flags, message in [
        (["--images", "2"], "--images: got 2; expected from 0 to 1"),
        (["--columns", "5"], "got 5"),
    ]:
        with pytest.raises(SystemExit) as caught:
            show_trajectory.main([*show, "--force", *flags])
        assert caught.value.code == 2 and message in capsys.readouterr().err
