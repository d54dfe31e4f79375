"""The installed command `ditq`: its steps and what it passes on; and no command loads matplotlib for its help."""

import importlib
import re
import subprocess
import sys

import pytest

import ditq
from ditq.cli.main import STEPS, main
from tests.house.checker import ROOT, steps


def said(capsys, *argv: str) -> str:
    main(list(argv))
    return capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
def test_help_lists_the_steps_a_line_each_in_the_order_of_use(capsys, argv):
    lines = [line.split() for line in said(capsys, *argv).splitlines() if line.startswith("  ")]
    assert [line[0] for line in lines] == list(STEPS)
    assert all(" ".join(line[1:]) == told for line, (_, told) in zip(lines, STEPS.values(), strict=True))
    assert list(STEPS)[:2] == ["generate", "generate-calibration-data"]


def test_every_step_of_src_is_a_step_of_the_command():
    commands = {
        found[1] for source in steps().values() if (found := re.match(r"from ditq\.cli\.(\w+)", source))
    }
    assert commands and commands <= {module for module, _ in STEPS.values()}
    assert all(module == name.replace("-", "_") for name, (module, _) in STEPS.items())


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_called_as_it_was_called(capsys, name):
    for spelled in {name, name.replace("-", "_")}:
        with pytest.raises(SystemExit) as ended:
            main([spelled, "--help"])
        told = capsys.readouterr().out
        assert ended.value.code == 0 and told.startswith(f"usage: ditq {name} [-h]")
        example = told.split("example:\n  ")[1]
        assert example.startswith(f"ditq {name} ") and "python" not in example
    with pytest.raises(SystemExit):
        importlib.import_module(f"ditq.cli.{STEPS[name][0]}").main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python ")


def test_arguments_are_the_step_s_own(capsys, tmp_path):
    out = str(tmp_path / "out")
    assert "pictures to draw: 1 of 128x128 with mini" in said(
        capsys, "generate", "a fox", "--out", out, "--dry-run"
    )
    assert "w4a8-gptq" in said(capsys, "quantize", "--list")


def test_an_unknown_step_is_refused_with_the_list(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["quantise"])
    told = capsys.readouterr()
    assert ended.value.code == 2 and told.out == ""
    assert told.err.startswith("error: step: got quantise; expected one of ") and all(
        name in told.err for name in STEPS
    )


def test_version(capsys):
    assert said(capsys, "--version") == f"ditq {ditq.__version__}\n"


def test_installed_command_is_this_one():
    assert re.search(
        r'^\[project\.scripts\]\nditq = "ditq\.cli\.main:main"$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    done = subprocess.run(
        [sys.executable, "-m", "ditq.cli.main", "--version"],
        cwd=ROOT / "src",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"ditq {ditq.__version__}\n"


def test_no_command_loads_matplotlib_before_it_draws():
    modules = sorted(path.stem for path in (ROOT / "src" / "ditq" / "cli").glob("[a-z]*.py"))
    code = (
        f"import sys, importlib\nfor name in {modules}:\n    importlib.import_module(f'ditq.cli.{{name}}')\n"
        "    assert 'matplotlib' not in sys.modules, name\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
