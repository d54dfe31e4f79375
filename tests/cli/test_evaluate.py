"""`python -m src.evaluate` on mini: what it writes, how it goes on, what it refuses, and its gate."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from ditq.activations import ActivationTable
from ditq.checkpoint import write_folder
from ditq.cli import evaluate
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.files import read_json, read_text, write_json, write_png
from ditq.core.spec import Spec
from ditq.evaluation import read_report, rounded
from ditq.models import load

AMOUNTS = {"prompts": 2, "timed": 1, "flat": 1, "trajectories": 1}
LEAST = ["--batch-size", "2", "--steps", "2", *(f"--num-{name}={count}" for name, count in AMOUNTS.items())]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """A W8A8 checkpoint of mini, rounded to nearest, that says which prompts it was calibrated on."""
    model, folder = load("mini"), tmp_path_factory.mktemp("checkpoint") / "quantized_model"
    timesteps = np.array([500.0], np.float32)
    rows = GridRows.of([8], np.array([0.2], np.float32))
    grids = dict.fromkeys(model.network().anatomy.paths("block"), TimestepGrid(timesteps, rows))
    made = rounded(model, Spec(8, group_size=64), ActivationTable(timesteps, grids), search=False)
    write_folder(folder, model.network(), replace(made, meta={"calibration_prompts": ["a fox in the snow"]}))
    return folder


@pytest.fixture(scope="module")
def finished(quantized, tmp_path_factory):
    """The folder of a run of two checkpoints."""
    other = tmp_path_factory.mktemp("other") / "second"
    shutil.copytree(quantized, other)
    out = tmp_path_factory.mktemp("evaluation") / "out"
    evaluate.main(["--checkpoint", str(quantized), str(other), *LEAST, "--out", str(out)])
    return out, [str(quantized), str(other)]


def test_everything_is_written(finished):
    out, _ = finished
    report = read_json(out / "report.json")
    names = [one["name"] for one in report["variants"]]
    assert names[0] == "quantized_model: W8A16" and names[3] == "second: W8, activations quantized"
    assert read_report(out / "report.json").variant(names[1]).scores["psnr"]
    assert [one["variant"] for one in report["teacher_forced"]] == names
    assert [one["steps"] for one in report["flat_field"]] == [[1, 2, 4]] * 4
    assert [one["variant"] for one in report["cost"]] == ["float", *names]
    assert all(one["alone"] for one in report["cost"]) and report["machine"]["mlx"]
    asked = [one["asked"] for one in report["attributes"] if one["attribute"] == "everything asked"]
    assert asked == [2] * 6  # the float model, four variants, and the float model from other seeds
    files = report["checkpoints"][0]["files"]
    assert {"config.json", "model.safetensors", "activations.npz"} <= set(files)
    assert "report.json" not in files
    own = report["variants"][1]["size"]["bytes"]
    assert sum(files.values()) == pytest.approx(own, rel=0.01)
    table = read_text(out / "report.md")
    for wanted in (
        "## Teacher-forced error",
        "## Flat field",
        "## What prompts ask for",
        "## Cost",
        "another seed is",
        "bits per parameter",
    ):
        assert wanted in table, wanted
    for name in (
        "psnr.png",
        "trajectory_errors.png",
        "layer_errors/second_w8a16.png",
        "pictures/float/00001.png",
    ):
        assert (out / name).exists(), name


def test_the_page_needs_nothing_but_itself_and_says_what_each_picture_is(finished):
    page = (finished[0] / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|url\(|@import|<link", page)
    assert len(re.findall(r"<img ", page)) == len(re.findall(r'<img alt="[^"]+"', page)) == len(sources)
    assert len(re.findall(r'<input type="range"[^>]* aria-label="[^"]+"', page)) == 2 * 2
    assert page.index("takes") < page.index("<h2>")
    assert "prefers-color-scheme: dark" in page and "initial-scale=1" in page


def test_cards_have_the_header_of_the_hub(finished):
    card = read_text(finished[0] / "cards" / "second" / "README.md")
    header = card.split("---")[1].splitlines()
    assert {"library_name: mlx", "license: mit", "pipeline_tag: text-to-image"} <= set(header)
    assert 'ditq.open_checkpoint("second")' in card and "| second: W8A16 |" in card
    assert "quantized_model: W8A16" not in card and "calibrated on" in card


def test_a_finished_run_is_not_measured_again_and_the_gate_names_what_fails(finished, capsys, monkeypatch):
    out, folders = finished
    before = read_json(out / "report.json")
    argv = ["--checkpoint", *folders, *LEAST, "--out", str(out), "--resume"]
    monkeypatch.setattr("ditq.cli.evaluate.measured_cost", None)
    capsys.readouterr()
    evaluate.main([*argv, "--max-latent-error", "1e6", "--max-velocity-error", "1e6"])
    assert read_json(out / "report.json") == before
    assert "another seed is" in capsys.readouterr().out
    with pytest.raises(SystemExit) as caught:
        evaluate.main([*argv, "--max-latent-error", "0.000001", "--min-psnr", "1", "--json"])
    told, said = capsys.readouterr()
    assert caught.value.code == 1 and len(json.loads(told)["failed"]) == 4
    assert "median latent error: got" in said and "--max-latent-error" in said and "--min-psnr" not in said


def test_sets_of_enough_pictures_are_compared(quantized, tmp_path, fails, capsys):
    out = tmp_path / "out"
    least = ["--steps", "1", *(f"--num-{name}=0" for name in ("timed", "flat", "trajectories"))]
    argv = ["--checkpoint", str(quantized), *least, "--batch-size", "10", "--num-prompts", "20"]
    evaluate.main([*argv, "--out", str(out)])
    scores = read_json(out / "report.json")["sets"]
    names = ["float", "W8A16", "W8, activations quantized"]
    assert [one["variant"] for one in scores if one["metric"] == "Frechet distance"] == names
    assert {one["metric"] for one in scores} >= {"cubic MMD", "precision", "recall", "class score"}
    assert {one["reference"] for one in scores} == {20}
    page, told = ((out / name).read_text(encoding="utf-8") for name in ("index.html", "report.md"))
    wanted = "20 pictures do not determine a covariance of 320 features"
    assert (
        wanted in page
        and wanted in told
        and "Taken as a set" in page
        and "## Sets of pictures, by mini's classifier" in told
    )
    assert not any(name in told for name in ("FID", "KID", "CMMD", "Inception"))
    again = [*argv, "--out", str(out), "--resume", "--reference", str(out / "pictures" / "float")]
    evaluate.main(again)
    with_folder = [
        one for one in read_json(out / "report.json")["sets"] if one["metric"] == "Frechet distance"
    ]
    assert [one["variant"] for one in with_folder] == [*names, "float, other seeds"]
    assert abs(with_folder[0]["found"]["value"]) < 1e-6  # the reference are these very pictures
    assert with_folder[3]["told_apart"]
    capsys.readouterr()
    card = read_text(out / "cards" / "quantized_model" / "README.md")
    assert "Frechet distance (lower is better)" in card
    small = tmp_path / "small"
    for number in range(20):
        write_png(small / f"{number:02d}.png", np.zeros((64, 64, 3), np.uint8), {})
    said = fails(evaluate.main, *again[:-1], small)
    assert "00.png to 15.png" in said and "got pictures of 64 x 64; expected 128 x 128" in said
    (small / "00.png").write_bytes(b"")
    assert "00.png: got" in fails(evaluate.main, *again[:-1], small)
    assert "got no such folder" in fails(evaluate.main, *again[:-1], tmp_path / "nowhere")
    assert "--reference: got --num-prompts 2" in fails(
        evaluate.main, "--checkpoint", quantized, *LEAST, "--out", tmp_path / "x", "--reference", out
    )
    assert "brings no classifier" in fails(evaluate.main, *again, "--size", "64", "--dry-run")


def test_mistakes_are_refused_before_anything_is_computed(fails, finished, quantized, tmp_path):
    _, folders = finished
    common = ["--checkpoint", quantized, *LEAST, "--dry-run", "--out"]
    assert "a folder twice" in fails(
        evaluate.main, "--checkpoint", quantized, quantized, "--out", tmp_path / "x"
    )
    assert "earlier run" in fails(evaluate.main, *common, finished[0])
    trained = read_json(quantized / "config.json")["meta"]["calibration_prompts"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"a fox\n  {trained[0].upper()}\n")
    said = fails(evaluate.main, *common, tmp_path / "x", "--prompts", prompts)
    assert "was calibrated on" in said and trained[0].upper() in said
    said = fails(
        evaluate.main, *common, tmp_path / "x", "--max-velocity-error", "1", "--num-trajectories", "0"
    )
    assert "--max-velocity-error: got --num-trajectories 0" in said
    changed = tmp_path / "changed"
    shutil.copytree(folders[1], changed)
    write_json(changed / "config.json", {**read_json(changed / "config.json"), "model": "sd3-medium"})
    assert "sd3-medium" in fails(evaluate.main, "--checkpoint", changed, "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_forecast_computes_nothing(quantized, tmp_path, capsys):
    out = tmp_path / "out"
    evaluate.main(["--checkpoint", str(quantized), *LEAST, "--out", str(out), "--dry-run", "--json"])
    told = json.loads(capsys.readouterr().out)
    # 4 sets of 2 pictures, 1 float trajectory and 2 of two each, 3 flat pictures of 1 + 2 + 4 steps, 3 times 2 timed
    assert told["runs"] == round(8 + 1 + 4 + 3 * 7 / 2 + 6) and not out.exists()
