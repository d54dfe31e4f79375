"""The two Phase 2 commands with the documented flags, from calibration points to figures and a verdict."""

import json
import os

import numpy as np
import pytest

from ditq.cli import profile_postgelu, sample_cali_data, visualize_postgelu
from ditq.core.files import read_image, read_json
from ditq.diagnostics import read_statistics, write_statistics
from tests.diagnostics.runs import invented


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "cali.npz"
    few = ["--num-fid-samples", "4", "--num-sampling-steps", "4", "--num-selected-steps", "2"]
    sample_cali_data.main(["--model", "mini", *few, "--batch-size", "4", "--output", str(path)])
    return path


@pytest.fixture
def stats(tmp_path):
    write_statistics(tmp_path / "stats.npz", invented(layers=4))
    return tmp_path / "stats.npz"


def test_profile_and_visualize_as_the_documents_say(capsys, fails, tmp_path, points):
    stats, plots = tmp_path / "activation_stats_postgelu.npz", tmp_path / "activation_plots"
    profile = ["--calibration-file", str(points), "--output", str(stats)]
    profile_postgelu.main([*profile, "--num_samples", "6"])
    assert "6 of 8 points, 9 layers x 2 timesteps" in capsys.readouterr().out
    assert "use --resume, --force" in fails(profile_postgelu.main, *profile)
    profile_postgelu.main([*profile, "--num_samples", "6", "--resume"])
    assert "nothing to do: 6 of 8 points" in capsys.readouterr().out
    visualize_postgelu.main(
        ["--stats-file", str(stats), "--output-dir", str(plots), "--layers", "mm_00_img", "mm_02_txt"]
    )
    out = capsys.readouterr().out
    assert (
        out.startswith("layer")
        and "mm_04_img" in out
        and "asymmetry: 9 of 9 layers, 9 of them strongly" in out
    )
    assert "18 figures, verdict.json, summary.md" in out
    for name in ("range_vs_timestep_all", "histogram_mm_00_img", "channel_ranges_mm_02_txt", "heatmap_mean"):
        assert read_image(plots / f"{name}.png")[0].std() > 5
    found = read_json(plots / "verdict.json")
    assert found["kind"] == "ditq.activation_verdict" and len(found["layers"]) == 9
    assert "| mm_00_txt |" in (plots / "summary.md").read_text()
    assert "use --force" in fails(visualize_postgelu.main, "--stats-file", stats, "--output-dir", plots)


@pytest.mark.filterwarnings("always:--num-samples")
def test_more_samples_than_points_are_told(capsys, tmp_path, points):
    output = tmp_path / "stats.npz"
    profile_postgelu.main(["--calibration-file", str(points), "--output", str(output), "--json"])
    captured = capsys.readouterr()
    assert "warning: --num-samples 512: the file holds 8, all are run" in captured.err
    assert json.loads(captured.out)["points"] == 8


def test_shards_merge(capsys, fails, tmp_path, points):
    profile = ["--calibration-file", str(points), "--num-samples", "8"]
    for k in (0, 1):
        profile_postgelu.main([*profile, "--shard", f"{k}/2", "--output", str(tmp_path / f"{k}.npz")])
    files = [str(tmp_path / "0.npz"), str(tmp_path / "1.npz")]
    profile_postgelu.main(["--merge", *files, "--output", str(tmp_path / "both.npz")])
    assert "8 points of 2 files" in capsys.readouterr().out
    assert sorted(read_statistics(tmp_path / "both.npz").points) == list(range(8))
    out = ["--output", tmp_path / "twice.npz"]
    assert "points that are in both files" in fails(
        profile_postgelu.main, "--merge", files[0], files[0], *out
    )


def test_dry_runs_write_nothing(capsys, tmp_path, points, stats):
    folder = tmp_path / "x"
    folder.mkdir()
    argv = ["--calibration-file", str(points), "--num-samples", "8", "--inputs", "all", "--dry-run"]
    profile_postgelu.main([*argv, "--output", str(folder / "stats.npz")])
    assert "would run 8 of 8 points and observe 74 layers x 2 timesteps" in capsys.readouterr().out
    visualize_postgelu.main(["--stats-file", str(stats), "--output-dir", str(folder / "plots"), "--dry-run"])
    assert "6 figures for each of 4 layers" in capsys.readouterr().out
    assert os.listdir(folder) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "--calibration-file: got none"),
        (["--calibration-file", "nowhere.npz"], "nowhere.npz: got no such file"),
        (["--shard", "2"], "--shard: got 2; expected K/N"),
        (["--shard", "2/2"], "--shard: got 2/2; expected K/N with 0 <= K < N"),
        (["--num-samples", "0"], "--num-samples: got 0"),
    ],
)
def test_bad_flags_of_profile_are_explained(fails, tmp_path, points, argv, message):
    whole = argv if not argv or "--calibration-file" in argv else ["--calibration-file", points, *argv]
    assert message in fails(profile_postgelu.main, *whole, "--output", tmp_path / "x.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--layers", "mm_09_img"], "--layers: got mm_09_img; expected a path or label of 4"),
        (["--drift-at", "3", "2"], "--drift-at: got 3.0 2.0"),
        (["--bits", "9"], "bits: got 9"),
        (["--stats-file", "nowhere.npz"], "nowhere.npz: got no such file"),
    ],
)
def test_bad_flags_of_visualize_are_explained(fails, tmp_path, stats, argv, message):
    argv = ["--stats-file", stats, "--output-dir", tmp_path / "plots", *argv]
    assert message in fails(visualize_postgelu.main, *argv)
    assert not (tmp_path / "plots").exists()


def test_values_that_are_not_finite_are_a_clear_error(fails, tmp_path):
    statistics = invented(layers=1)
    next(iter(statistics.layers.values()))[1000.0].total[0] = np.nan
    write_statistics(tmp_path / "stats.npz", statistics)
    argv = ["--stats-file", tmp_path / "stats.npz", "--output-dir", tmp_path / "plots"]
    assert "values that are not finite" in fails(visualize_postgelu.main, *argv)


def test_page_holds_every_layer_and_json_is_the_verdict(capsys, tmp_path, stats):
    argv = ["--stats-file", str(stats), "--output-dir", str(tmp_path / "plots"), "--html", "--json"]
    visualize_postgelu.main([*argv, "--figures", "levels", "heatmap_std", "--drift-at", "20", "30"])
    found = json.loads(capsys.readouterr().out)
    assert found["thresholds"]["drift"] == [20, 30] and found["summary"]["drift"]["none"] == 4
    text = (tmp_path / "plots" / "index.html").read_text()
    assert text.count("<section") == 4 and text.count("data:image/png;base64,") == 5
    assert set(os.listdir(tmp_path / "plots")) >= {"heatmap_std.png", "levels_mm_00_img.png", "index.html"}
