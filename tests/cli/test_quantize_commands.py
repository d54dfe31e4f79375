"""quantize, its script and quantize_qronos, from recorded pictures to a folder that draws; samples side by side."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ditq import checkpoint
from ditq.cli import (
    benchmark,
    compare_methods,
    generate,
    quantize,
    quantize_model,
    quantize_qronos,
)
from ditq.core.files import read_image, read_json
from ditq.models import load
from ditq.sampling.generate import generate as generate_pictures
from ditq.sampling.generate import settings_for
from tests.cli.conftest import FEW, QUICK
from tests.house.checker import ROOT


def test_script_writes_a_checkpoint_with_activation_grids(quantized):
    parts = checkpoint.load(quantized)
    assert len(parts.weights) == 57 and parts.activations is not None
    assert {weight.spec.bits for weight in parts.weights.values()} == {4}
    assert set(parts.activations.grids) == set(parts.weights)
    report = read_json(quantized / "report.json")
    assert {line["method"] for line in report["layers"].values()} == {"gptq"}
    assert parts.meta["recipe"] == "w4a8-gptq"
    assert sorted(path.name for path in quantized.iterdir()) == [
        "activations.npz", "config.json", "model.safetensors", "report.json", "work",
    ]  # fmt: skip
    assert [path.name for path in (quantized / "work").iterdir()] == ["plan.json"]


def test_no_picture_of_a_quantized_folder_depends_on_its_batch(quantized):
    model = checkpoint.FolderModel(load("mini"), quantized)
    settings = settings_for(model, steps=4)
    prompts, seeds = ["a fox in the snow", "a red car at sunset", "a large owl at night"], [1, 2, 3]
    alone, together = ([*generate_pictures(model, prompts, seeds, settings, size)] for size in (1, 3))
    assert np.array_equal(alone, together)


def test_runs_refuse_resume_and_force(capsys, fails, calibration, tmp_path):
    out = tmp_path / "out"
    argv = ["--recipe", "w8a8", "--calib", str(calibration), "--out", str(out), *QUICK, "--blocks", "1"]
    quantize.main([*argv, "--dry-run"])
    told = capsys.readouterr().out
    assert "14 by rtn" in told and "calibration: 8 rows" in told and not out.exists()
    quantize.main([*argv, "--dry-run", "--json"])
    foretold = json.loads(capsys.readouterr().out)
    quantize.main([*argv, "--json"])
    first = json.loads(capsys.readouterr().out)
    assert first["layers"] == 14 and first["bits_per_weight"] == pytest.approx(8.45, abs=0.05)
    assert first["bytes"] == pytest.approx(foretold["checkpoint_bytes"], rel=0.02)
    assert "earlier run" in fails(quantize.main, *argv)
    quantize.main([*argv, "--resume", "--json"])
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": 0} == {**first, "seconds": 0}
    other = ["--recipe", "w4a8-rtn", *argv[2:]]
    assert "recipe: got" in fails(quantize.main, *other, "--resume")
    quantize.main([*other, "--force"])
    assert "w4a8-rtn: 14 layers at 5.1" in capsys.readouterr().out


def test_recipe_files_first_blocks_and_quantized_adaln(capsys, calibration, tmp_path):
    recipe = {
        "kind": "ditq.recipe",
        "version": 1,
        "layers": [
            {"paths": ["*.adaLN_modulation.*"], "method": "rtn", "bits": 8, "group_size": 64},
            {"paths": ["*_blocks.*"], "method": "qronos", "bits": 4, "group_size": 64},
            {"paths": ["*"], "method": "float"},
        ],
        "activations": {"bits": 8, "damage": {"num_images": 1, "stride": 5, "noise_steps": 1}},
    }
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    argv = ["--recipe", str(tmp_path / "mine.json"), "--calib", str(calibration), *QUICK, "--blocks", "1"]
    quantize_qronos.main([*argv, "--keep-work", "--out", str(tmp_path / "one")])
    assert len(list((tmp_path / "one").rglob("damage.npz"))) == 1
    assert "mine: " in capsys.readouterr().out
    parts = checkpoint.load(tmp_path / "one")
    inner = [path for path in parts.weights if ".adaLN_modulation." not in path]
    assert {path.split(".")[1] for path in inner} == {"0"} and len(inner) == 12
    generate.main(
        ["a fox in the snow", "--compare", "--checkpoint", str(tmp_path / "one"), "--steps", "2"]
        + ["--out", str(tmp_path / "samples")]
    )
    assert "1 prompt, median PSNR" in capsys.readouterr().out


def test_a_checkpoint_has_a_folder_of_its_own(fails, calibration):
    argv = ["--recipe", "w8a8", "--calib", calibration, "--out", calibration]
    assert "--out: got the folder of the calibration data" in fails(quantize.main, *argv)


def test_a_run_that_is_going_on_is_told_as_that(fails, calibration, tmp_path):
    out = tmp_path / "out"
    (out / "work").mkdir(parents=True)
    (out / "work" / "plan.json").write_text("{}")
    held = [sys.executable, "-c", HOLDS, str(out)]
    with subprocess.Popen(held, stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd=ROOT) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        argv = ["--recipe", "w8a8", "--calib", calibration, "--out", out]
        assert f"process {other.pid}" in fails(quantize.main, *argv)
        other.communicate(b"\n")


HOLDS = """
import sys, src
from ditq.core.files import lock
with lock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "--recipe: got none; expected a .json file, or one of"),
        (["--recipe", "w1a1"], "--recipe: got w1a1"),
        (["--recipe", "w4a8-gptq", "--blocks", "9"], "--blocks: got 9; expected from 1 to 5"),
        (["--recipe", "w4a8-gptq", "--num-images", "99"], "--num-images: got 99; expected at most 6"),
        (["--recipe", "w4a8-gptq", "--model", "sd3-medium"], "got calibration data of mini"),
        (["--recipe", "w4a8-gptq", "--calib", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_explained(fails, calibration, tmp_path, argv, says):
    common = [] if "--calib" in argv else ["--calib", calibration]
    assert says in fails(quantize.main, *argv, *common, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_not_there_is_told_with_the_command_that_makes_it(fails, tmp_path):
    gone = tmp_path / "gone"
    makes = (
        f"record it (here with mini): python -m src.generate_calibration_data --model mini --calib-dir {gone}"
    )
    for main in (quantize.main, quantize_model.main, quantize_qronos.main, compare_methods.main):
        recipe = ["--recipe", "w8a8"] if main is quantize.main else []
        assert makes in fails(main, *recipe, "--calib", gone, "--out", tmp_path / "out")
    makes = f"make it: python -m src.quantize --recipe w4a8-qronos --out {gone}"
    assert makes in fails(benchmark.main, "--checkpoint", gone, "--out", tmp_path / "out")
    assert makes in fails(
        generate.main, "a fox", "--compare", "--checkpoint", gone, "--out", tmp_path / "out"
    )
    assert not (tmp_path / "out").exists()


def test_presets_are_listed(capsys):
    quantize.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("w4a8-qronos ") for line in lines)
    quantize.main(["--list", "--json"])
    assert "w4-group64" in json.loads(capsys.readouterr().out)


def test_benchmark_measures_weights_alone_and_activations_too(capsys, fails, quantized, tmp_path):
    flags = f"--num_images 2 --batch_size 2 --output_dir {tmp_path / 'results'}".split()
    argv = [*flags, "--checkpoint", str(quantized), "--steps", "2", "--num-timed", "1", "--num-flat", "1"]
    benchmark.main(argv)
    told = capsys.readouterr().out
    assert "| W4A16 |" in told and "| W4, activations quantized |" in told and "ms per step" in told
    report = read_json(tmp_path / "results" / "report.json")
    assert [len(one["scores"]["psnr"]) for one in report["variants"]] == [2, 2]
    assert (tmp_path / "results" / "psnr.png").exists()
    assert "earlier run" in fails(benchmark.main, *argv)
    benchmark.main([*argv, "--resume", "--metrics", "latent_error"])
    assert "latent error" in capsys.readouterr().out


def test_samples_side_by_side(capsys, fails, quantized, tmp_path):
    argv = [
        "a fox in the snow",
        "an owl at night",
        "--compare",
        "--checkpoint",
        str(quantized),
        "--steps",
        "2",
    ]
    argv += ["--output_dir", str(tmp_path)]
    generate.main([*argv, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert [one["prompt"] for one in told["pictures"]] == argv[:2]
    pair = [read_image(tmp_path / name / "0000_a-fox-in-the-snow.png")[0] for name in ("float", "quantized")]
    difference = np.square(pair[0].astype(float) - pair[1]).mean()
    assert told["pictures"][0]["psnr"] == pytest.approx(10 * np.log10(255**2 / difference), abs=1e-6)
    assert (tmp_path / "comparison_01.png").exists()
    assert "earlier run" in fails(generate.main, *argv)
    generate.main([*argv, "--resume"])
    assert "2 prompts" in capsys.readouterr().out


@pytest.mark.slow
def test_methods_are_compared_on_the_same_grids(capsys, fails, calibration, tmp_path):
    argv = ["--calib", str(calibration), "--out", str(tmp_path / "methods"), *FEW, "--bits", "3", "8"]
    argv += ["--num-prompts", "2", "--steps", "2", "--iters", "3"]
    argv += ["--num-held-out", "1", "--methods", "rounding-mse", "gptq-sequential"]
    compare_methods.main([*argv, "--dry-run"])
    assert "2 methods at 3, 8 bits, then 12 pictures" in capsys.readouterr().out
    compare_methods.main([*argv, "--report", str(tmp_path / "page.md")])
    assert "GPTQ-Sequential" in capsys.readouterr().out
    told = read_json(tmp_path / "methods" / "methods.json")
    entries = {(one["contender"], one["bits"]): one for one in told["entries"]}
    assert len(entries) == 4 and {one["bits_per_weight"] for one in told["entries"] if one["bits"] == 3} == {
        entries["GPTQ-Sequential", 3]["bits_per_weight"]
    }
    for name in ("GPTQ-Sequential", "rounding, MSE"):
        assert entries[name, 8]["layer_error"] < 0.1 * entries[name, 3]["layer_error"]
        assert entries[name, 8]["psnr"]["median"] > entries[name, 3]["psnr"]["median"] + 10
    assert entries["GPTQ-Sequential", 3]["layer_error"] < entries["rounding, MSE", 3]["layer_error"]
    text = (tmp_path / "page.md").read_text()
    assert "page.png" in text and "python -m src.compare_methods --calib" in text and "--report" in text
    assert (tmp_path / "page.png").exists() and (tmp_path / "methods" / "methods.png").exists()
    compare_methods.main([*argv, "--resume", "--json"])
    again = json.loads(capsys.readouterr().out)
    assert again["entries"] == told["entries"]
    assert "none left" in fails(
        compare_methods.main, *argv[:2], "--out", tmp_path / "x", "--num-images", "6", "--stride", "2"
    )
