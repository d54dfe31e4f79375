"""Source is finished, fits on a screen or two, and knows no one's machine."""

import re

import pytest

from tests.house.checker import LONGEST, ROOT, modules, steps

UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
MACHINE = re.compile(r"(?<![\w.~{}-])/(home|Users|root|opt|tmp|mnt|workspace|work|data)/\w")
TEXTS = [
    path
    for pattern in (
        "*.md",
        "*.toml",
        "Makefile",
        ".ci/run",
        "src/**/*.py",
        "tests/**/*.py",
        "scripts/**/*",
        "docs/**/*.md",
    )
    for path in ROOT.glob(pattern)
    if path.suffix in (".md", ".toml", ".py", ".sh", "") and path.is_file()
]


def test_modules_are_finished():
    assert not [name for name, source in modules().items() if UNFINISHED.search(source)]


def test_modules_are_short():
    lengths = {name: source.count("\n") for name, source in modules().items()}
    assert not {name: length for name, length in lengths.items() if length > LONGEST}


def test_steps_are_finished():
    assert not [path for path, source in steps().items() if UNFINISHED.search(source)]


def test_no_text_names_a_place_of_one_machine():
    found = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path in TEXTS
        if path.name != "test_prose.py"
        for match in MACHINE.finditer(path.read_text(encoding="utf-8"))
    }
    assert not found


@pytest.mark.parametrize("text", ["see /home/someone/models", "cp /tmp/x .", '"/Users/me"'])
def test_machine_path_is_seen(text):
    assert MACHINE.search(text)


@pytest.mark.parametrize(
    "text", ["/path/to/python3.12", "https://example.org/data/x", "adaround_cache/data/x"]
)
def test_other_path_is_not(text):
    assert not MACHINE.search(text)
