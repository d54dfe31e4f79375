"""What the documents tell users to type works."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.checker import ROOT
from tests.house.documents import COMMANDS, ByTest, Help, InCI, Run, blocks, commands

BLOCKS = blocks()


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Types `command` in `folder`, with this interpreter as `python`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder that sees the checkout and keeps what is written beside it."""
    for name in ("src", "scripts", "benchmarks", "prompts", "tests"):
        if (ROOT / name).exists():
            (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS)
def test_commands_of_a_block_work(block, checkout):
    unknown = [command for command in BLOCKS[block] if command not in COMMANDS]
    assert not unknown, f"{block}: say in tests/house/documents.py how these are known to work: {unknown}"
    for command in BLOCKS[block]:
        match COMMANDS[command]:
            case Run(extra):
                ran = shell(f"{command} {extra}", checkout)
                assert not ran.returncode, f"{command}\n{ran.stdout}{ran.stderr}"
            case Help():
                assert not (faults := help_faults(command, checkout)), f"{command}: {faults}"
            case InCI():
                assert command in commands((ROOT / ".ci" / "run").read_text())
            case ByTest(by):
                path, _, name = by.partition("::")
                tests = ast.walk(ast.parse((ROOT / path).read_text()))
                assert name in {node.name for node in tests if isinstance(node, ast.FunctionDef)}, by


def help_faults(command: str, folder: Path) -> list[str]:
    """The flags of `command` that its program's help does not name, or why there is no help."""
    words = shlex.split(command)
    program = words[: 3 if words[1] == "-m" else 2]
    shown = shell(shlex.join([*program, "--help"]), folder)
    if shown.returncode:
        return [shown.stderr]
    flags = [word.partition("=")[0] for word in words[len(program) :] if word.startswith("--")]
    return [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", shown.stdout)]


def test_every_listed_command_stands_in_a_document():
    written = {command for block in BLOCKS.values() for command in block}
    stale = sorted(set(COMMANDS) - written)
    assert not stale


def test_commands_are_read_as_a_user_types_them():
    text = "# first\n$ make demo   # a picture\npython -m src.generate \\\n  --out a\n\n"
    assert commands(text) == ["make demo", "python -m src.generate --out a"]


def test_unknown_flag_and_program_are_seen(checkout):
    assert help_faults("python -m src.generate --flag-of-dreams 3 --out a", checkout) == ["--flag-of-dreams"]
    assert not help_faults("python -m src.generate --model mini --out a", checkout)
    assert help_faults("python -m src.no_such_step", checkout)


def test_results_in_the_readme_are_those_of_the_results_page():
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "docs/results/mini.md"))
    section = readme.split("## Results")[1].split("\n## ")[0]
    told = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| W")]
    measured = [line.split("|")[1:4] for line in page.splitlines() if line.startswith("| W")]
    assert len(told) > 5
    assert [row for row in told if row not in measured] == []


@pytest.fixture
def layer_tables(monkeypatch):
    """What writes the page of the layer solvers."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import layer_tables

    return layer_tables


def test_the_page_of_the_layer_solvers_and_the_readme_follow_from_the_recorded_times(layer_tables):
    known = json.loads((ROOT / "benchmarks" / "results" / "layer_solvers.json").read_text())
    assert layer_tables.PAGE.read_text() == layer_tables.page(known)
    readme = (ROOT / "README.md").read_text()
    for method, contest in zip(("GPTQ", "Qronos"), layer_tables.CONTESTS, strict=False):
        lines = [line for line in layer_tables.table(known, *contest) if re.match(r"\| \d", line)]
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        below = sorted(100 * (1 - float(cell[3]) / float(cell[4])) for cell in cells)
        ratios = sorted((cell[8] for cell in cells), key=float)
        told = next(line for line in readme.splitlines() if line.startswith(f"| {method} of one layer"))
        assert f" {len(cells)} cases " in told
        assert f"error {below[0]:.0f} to {below[-1]:.0f} % below" in told
        assert f"{ratios[0]} to {ratios[-1]} of the time" in told
