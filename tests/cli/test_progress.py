"""Progress where nobody watches: a line every few seconds, with what is left."""

import pytest

from ditq.cli import progress
from ditq.cli.progress import EVERY, Bars, Progress


@pytest.fixture
def passes(monkeypatch):
    """Lets that many seconds pass; standard error is no terminal."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "watched", lambda: False)

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_a_line_every_few_seconds_and_none_for_what_is_quick(passes, capsys):
    with Progress(40, "picture", "evaluation") as bar:
        for _ in range(40):
            passes(1)
            bar.advance()
    # the clock of a bar starts with its first finished unit
    assert capsys.readouterr().err.splitlines() == [
        "evaluation: 16 of 40 pictures, about 22 s left",
        "evaluation: 31 of 40 pictures, about 9 s left",
    ]
    with Progress(40, "picture", "evaluation") as bar:
        bar.advance(40)
    assert capsys.readouterr().err == ""


def test_parts_are_told_with_what_they_are_doing(passes, capsys):
    with Bars() as bars:
        bars.advance("block cache", 3, 8)
        bars.advance("blocks", 1, 5)
        passes(EVERY + 1)
        bars.note("block 1, 200")
        passes(1)
        bars.note("block 1, 210")
    assert capsys.readouterr().err == "blocks: 1 of 5 (block 1, 200), about 64 s left\n"
