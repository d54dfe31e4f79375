"""What messages tell the user to do can be done: commands run as they are spelled, flags exist."""

import ast
import importlib
import json
import re
import shlex

import pytest

from ditq.cli import generate, generate_calibration_data, quantize, sample_cali_data
from ditq.cli.main import main as ditq
from tests.cli.test_mistakes import COMMANDS, parser_of
from tests.house.checker import modules


def follow(capsys, err: str, *more) -> dict:
    """Runs the command that a message names, with --dry-run --json and these words; what it prints."""
    found = re.search(r"(?:python -m src\.(\S+)|ditq (\S+)) ([^;]*)$", err.strip())
    assert found, err
    step = (found[1] or found[2]).replace("-", "_")
    argv = [*shlex.split(found[3]), *map(str, more), "--dry-run", "--json"]
    capsys.readouterr()
    if found[2]:
        ditq([step, *argv])
    else:
        importlib.import_module(f"ditq.cli.{step.rpartition('.')[2]}").main(argv)
    return json.loads(capsys.readouterr().out)


def test_missing_calibration_data_are_recorded_by_what_the_message_says(capsys, fails, tmp_path):
    folder = tmp_path / "my folder"
    err = fails(quantize.main, "--recipe", "w4a8-rtn", "--calib", folder)
    told = follow(capsys, err)
    assert told["model"] == "mini" and told["output"] == str(folder)
    err = fails(ditq, "quantize", "--recipe", "w4a8-rtn", "--calib", folder)
    assert "ditq generate-calibration-data" in err and follow(capsys, err)["output"] == str(folder)


def test_a_missing_checkpoint_is_made_by_what_the_message_says(capsys, fails, calibration, tmp_path):
    err = fails(generate.main, "a fox", "--checkpoint", tmp_path / "my folder", "--out", tmp_path / "out")
    told = follow(capsys, err, "--calib", calibration)
    assert told["recipe"] == "w4a8-qronos" and told["output"] == str(tmp_path / "my folder")


def test_an_earlier_run_is_followed_by_each_way_that_the_message_names(capsys, fails, tmp_path):
    points = [
        "--model",
        "mini",
        "--num-fid-samples",
        "2",
        "--num-sampling-steps",
        "2",
        "--num-selected-steps",
        "1",
    ]
    runs = [
        (generate.main, ["a fox", "--steps", "1", "--out", str(tmp_path / "pictures")]),
        (sample_cali_data.main, [*points, "--output", str(tmp_path / "points.npz")]),
        (
            generate_calibration_data.main,
            ["--model", "mini", "--num-images", "1", "--steps", "1", "--calib-dir", str(tmp_path / "data")],
        ),
    ]
    for main, argv in runs:
        main(argv)
        assert "--resume, --force or another" in fails(main, *argv)
        main([*argv, "--resume"])
        main([*argv, "--force"])
    capsys.readouterr()
    sample_cali_data.main([*points, "--output", str(tmp_path / "points.npz"), "--resume"])
    assert capsys.readouterr().out.startswith("nothing to do: 2 points")
    err = fails(sample_cali_data.main, *points, "--seed", 1, "--output", tmp_path / "points.npz", "--resume")
    assert "seed: got 1; expected 0 as in the earlier run" in err


def test_a_failed_download_leaves_nothing_behind(fails, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ditq.models.mini.model.Mini.encode", fail)
    fails(sample_cali_data.main, "--model", "mini", "--output", tmp_path / "points.npz")
    fails(generate_calibration_data.main, "--model", "mini", "--calib-dir", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def remedies() -> list[tuple[str, tuple[str, ...]]]:
    """The step and the flags of every command that the code spells for a message."""
    found = []
    for source in modules().values():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("command", "again"):
                words = [part.value for part in node.args if isinstance(part, ast.Constant)]
                if words and isinstance(node.args[0], ast.Constant):
                    flags = [word for word in words[1:] if str(word).startswith("--")]
                    found.append((words[0], ("--resume",) if node.func.id == "again" else tuple(flags)))
    return sorted(set(found))


@pytest.mark.parametrize(("step", "flags"), remedies())
def test_every_command_of_a_message_is_one_that_takes_its_flags(monkeypatch, step, flags):
    assert step in COMMANDS and flags
    assert set(flags) <= parser_of(step, monkeypatch)._option_string_actions.keys()


def flags_in_messages() -> list[tuple[str, str]]:
    """Every flag in a string of the code that is no docstring, with its module."""
    found = set()
    for name, source in modules().items():
        if name.startswith("plots."):  # style sheets have variables of such names
            continue
        tree = ast.parse(source)
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                found |= {
                    (name, flag) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+[a-z](?![\w-])", node.value)
                }
    return sorted(found)


FOREIGN = {"--help", "--version", "--no-deps", "--shell", "--quiet"}
"""Flags of other programs, and of all."""


def test_every_flag_that_a_message_names_is_a_flag_of_a_command(monkeypatch):
    known = {flag for module in COMMANDS for flag in parser_of(module, monkeypatch)._option_string_actions}
    unknown = [(module, flag) for module, flag in flags_in_messages() if flag not in known | FOREIGN]
    assert not unknown


@pytest.mark.parametrize("module", COMMANDS)
def test_dry_run_prints_json_wherever_both_flags_are(monkeypatch, module):
    flags = parser_of(module, monkeypatch)._option_string_actions
    if "--dry-run" in flags:
        assert "--json" in flags and "--force" in flags
