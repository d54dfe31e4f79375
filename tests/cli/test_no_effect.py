"""An option that changes nothing is told in a line; --checkpoint draws; --dry-run --json is JSON alone."""

import json

import mlx.core as mx
import numpy as np
import pytest

from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.cli import (
    adaround_optimize,
    analyze_activations,
    collect_layer_activations,
    compare_methods,
    generate,
    profile_postgelu,
    quantize,
    run_pipeline,
    sample_cali_data,
)
from ditq.cli.parsing import given
from ditq.core.affine import round_to_nearest
from ditq.core.files import read_image
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.models import load


def told(capsys, main, *argv) -> tuple[str, str]:
    """What a command prints, and its warnings; it may end with an error for its made-up files."""
    capsys.readouterr()
    try:
        main([str(arg) for arg in argv])
    except SystemExit as ended:
        assert ended.code == 2
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize(
    ("main", "argv", "flags"),
    [
        (generate.main, ["a fox", "--cfg-weight", "1", "--negative", "rain", "--dry-run"], ["--negative"]),
        (generate.main, ["a fox", "--text-encoders", "clip", "--dry-run"], ["--text-encoders"]),
        (
            generate.main,
            ["a fox", "--model", "sd1.5", "--text-encoders", "clip", "--dry-run"],
            ["--text-encoders"],
        ),
        (
            generate.main,
            ["a fox", "--model", "pixart-alpha", "--text-encoders", "clip", "--dry-run"],
            ["--text-encoders"],
        ),
        (quantize.main, ["--list", "--out", "x", "--seed", "3"], ["--out", "--seed"]),
        (
            run_pipeline.main,
            ["--out", "x", "--quick", "--images", "4", "--cache-images", "9", "--dry-run"],
            ["--cache-images 9"],
        ),
        (adaround_optimize.main, ["--flip-pull", "0.5", "--cache-dir", "nowhere"], ["--flip-pull"]),
        (
            analyze_activations.main,
            [
                "--stats",
                "nowhere",
                "--timesteps",
                "one",
                "--time-gain",
                "0.1",
                "--smooth",
                "none",
                "--bits-w",
                "3",
            ],
            ["--time-gain", "--bits-w"],
        ),
        (analyze_activations.main, ["--stats", "no", "--bits", "8", "--tail-from", "9"], ["--tail-from"]),
        (analyze_activations.main, ["--stats", "no", "--scale", "max", "--norm", "3"], ["--norm"]),
        (
            profile_postgelu.main,
            ["--merge", "a", "b", "--num-samples", "5", "--seed", "1"],
            ["--num-samples"],
        ),
        (
            collect_layer_activations.main,
            ["--merge", "a", "b", "--out", "c", "--stride", "2", "--dry-run"],
            ["--stride"],
        ),
    ],
)
def test_a_flag_without_effect_is_told_in_a_line(capsys, tmp_path, monkeypatch, main, argv, flags):
    monkeypatch.chdir(tmp_path)
    err = told(capsys, main, *argv)[1]
    warned = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert warned and all(any(flag in line for line in warned) for flag in flags), err
    assert list(tmp_path.iterdir()) == []


def test_flags_that_have_an_effect_are_no_matter(capsys, tmp_path):
    argv = [
        "a fox",
        "--cfg-weight",
        "3",
        "--negative",
        "rain",
        "--batch-size",
        "7",
        "--out",
        tmp_path / "out",
    ]
    out, err = told(capsys, generate.main, *argv, "--dry-run", "--json")
    assert err == "" and json.loads(out)["pictures"] == 1


def test_methods_without_learned_rounding_have_no_iterations(capsys, calibration, tmp_path):
    argv = [
        "--calib",
        calibration,
        "--out",
        tmp_path / "out",
        "--methods",
        "gptq",
        "--iters",
        "9",
        "--dry-run",
    ]
    assert "warning: --iters: has no effect without adaround" in told(capsys, compare_methods.main, *argv)[1]


def test_what_the_user_gave_is_known_by_its_first_name():
    from ditq.cli.parsing import parser

    made = parser("words", "python -m src.x")
    made.add_argument("--steps", "--num-steps", type=int)
    made.add_argument("--size")
    made.add_argument("words", nargs="*")
    args = made.parse_args(["--num_steps=3", "--", "--size"])
    assert given(args, "steps", "size", "words") == ["--steps"]


@pytest.fixture
def two_bits(monkeypatch):
    """What stands for every checkpoint: one layer of mini in two bits."""
    network = load("mini").network()
    path = next(path for path, layer in network.anatomy.modules(network).items() if path.endswith("fc1"))
    weight = network.anatomy.modules(network)[path].weight
    made = QuantizedWeight(*round_to_nearest(weight.astype(mx.float32), Spec(2)), Spec(2))
    checkpoint = QuantizedCheckpoint("mini", {path: made}, None, {})
    monkeypatch.setattr(generate.checkpoint, "load", lambda folder, *_: checkpoint)


def test_a_checkpoint_is_drawn_with(capsys, fails, two_bits, tmp_path):
    common = ["a fox", "--steps", "3"]
    told(capsys, generate.main, *common, "--out", tmp_path / "float")
    told(capsys, generate.main, *common, "--checkpoint", "here", "--out", tmp_path / "quantized")
    one, two = (read_image(tmp_path / name / "0000_a-fox.png") for name in ("float", "quantized"))
    assert not np.array_equal(one[0], two[0]) and "transformer" in two[1] and "transformer" not in one[1]
    err = fails(generate.main, *common, "--out", tmp_path / "quantized", "--resume")
    assert "got transformer '" in err and "expected none" in err
    err = fails(generate.main, *common, "--checkpoint", "here", "--out", tmp_path / "float", "--resume")
    assert "got no transformer; expected '" in err


def test_a_checkpoint_that_is_not_there_draws_nothing(fails, tmp_path):
    err = fails(generate.main, "a fox", "--checkpoint", tmp_path / "nosuch", "--out", tmp_path / "out")
    assert "nosuch/config.json: got no such file" in err and list(tmp_path.iterdir()) == []


def test_dry_runs_print_json_alone(capsys, calibration, tmp_path):
    from ditq.cli import generate_calibration_data

    collect = ["--calib-dir", calibration, "--num-images", "2", "--out", tmp_path / "statistics"]
    for main, argv in (
        (
            sample_cali_data.main,
            ["--model", "mini", "--text-encoders", "clip", "--output", tmp_path / "x.npz"],
        ),
        (generate_calibration_data.main, ["--model", "mini", "--calib-dir", tmp_path / "data"]),
        (collect_layer_activations.main, collect),
        (run_pipeline.main, ["--out", tmp_path / "pipeline", "--quick"]),
    ):
        out = told(capsys, main, *argv, "--dry-run", "--json")[0]
        assert isinstance(json.loads(out), dict) and out.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
