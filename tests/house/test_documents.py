"""What the documents tell users to type works."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house.checker import ROOT
from tests.house.documents import MADE_BEFORE, SETS_UP, SMALLER, TRAINING, commands, documents, typed

DOCUMENTS = documents()


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Types `command` in `folder`, with this interpreter as `python` and `ditq` as its installed command."""
    command = re.sub(r"^ditq ", "python -m ditq.cli.main ", command)
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
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_of_a_document_work_one_after_another(document, checkout):
    for command in [*MADE_BEFORE.get(document, []), *DOCUMENTS[document]]:
        if not command.startswith((*SETS_UP, TRAINING)) and not is_make(command):
            ran = shell(typed(command), checkout)
            assert not ran.returncode, f"{typed(command)}\n{ran.stdout}{ran.stderr}"


def test_make_has_every_target_that_a_document_names_and_ci_runs_those_of_the_readme():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = [command for lines in DOCUMENTS.values() for command in lines]
    named = {command.split()[1] for command in found if command.startswith("make ")}
    assert named and named <= targets
    in_ci = commands((ROOT / ".ci" / "run").read_text())
    assert [command for command in DOCUMENTS["README.md"] if is_make(command) and command not in in_ci] == []


@pytest.mark.slow
def test_training_has_every_step_that_a_document_names(checkout):
    told = shell(f"{TRAINING} --help", checkout).stdout
    found = [command for lines in DOCUMENTS.values() for command in lines if command.startswith(TRAINING)]
    words = {word.partition("=")[0] for command in found for word in command.split()[2:]}
    assert words and [word for word in words if not re.search(rf"(?<![\w-]){word}(?![\w-])", told)] == []


def is_make(command: str) -> bool:
    """Whether it is a target of the Makefile, or a part of one: the tests themselves."""
    return command.startswith(("make ", ".venv/bin/python -m pytest"))


def test_every_program_that_is_made_smaller_stands_in_a_document():
    written = [f"{command} " for found in DOCUMENTS.values() for command in found]
    stale = [name for name in SMALLER if not any(command.startswith(f"{name} ") for command in written)]
    assert stale == []


def test_commands_are_read_as_a_user_types_them():
    text = "# first\n$ make demo   # a picture\npython -m src.generate \\\n  --out a\n\n"
    assert commands(text) == ["make demo", "python -m src.generate --out a"]


def test_a_command_keeps_its_own_flags_when_it_is_made_smaller(checkout):
    command = "python -m src.generate_calibration_data --num-images 8"
    assert typed(command).startswith(f"{command} --num-images 3 ")
    assert typed("python -m src.generate --model sd3-medium fox").endswith("fox --dry-run")
    assert typed("python -m src.quantize_qronos").startswith("python -m src.quantize_qronos --num-images")
    assert typed("some-other-program --flag") == "some-other-program --flag"
    assert shell(typed("python -m src.generate --flag-of-dreams 3 fox"), checkout).returncode == 2


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
