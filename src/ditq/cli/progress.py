"""Progress, from the first finished unit on, so that a refused run shows its error alone: a bar where somebody watches,
else a line now and then."""

import sys
import time
from typing import Protocol

from tqdm import tqdm

from ditq.cli.output import say_error

EVERY = 15.0
"""Seconds between two lines where nobody watches."""


def watched() -> bool:
    """Whether somebody sees progress bars: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class _Bar(Protocol):
    """What tqdm and `Lines` can do."""

    n: float

    def update(self, n: float) -> object:
        """Counts n more units."""
        ...

    def set_postfix_str(self, s: str) -> None:
        """Shows what the current unit is doing."""
        ...

    def close(self) -> None:
        """Ends the bar."""
        ...


class Lines:
    """Tells progress in a line to standard error every `EVERY` seconds: for logs, where a bar would be no use."""

    def __init__(self, total: int, unit: str, description: str):
        self.n: float = 0
        self._total, self._unit, self._description, self._note = total, unit, description, ""
        self._started = self._told = time.monotonic()

    def update(self, n: float) -> None:
        """Counts n more units; tells if it is time to."""
        self.n += n
        now = time.monotonic()
        if now - self._told < EVERY:
            return
        self._told = now
        units = f" {self._unit}s" if self._unit else ""
        left = (now - self._started) * (self._total - self.n) / self.n if self.n else None
        rest = "" if left is None else f", about {left:,.0f} s left"
        say_error(f"{self._description}: {self.n:,.0f} of {self._total:,}{units}{self._note}{rest}")

    def set_postfix_str(self, s: str) -> None:
        """Shows what the current unit is doing in the next line, which may be due now."""
        self._note = f" ({s})"
        self.update(0)

    def close(self) -> None:
        """Nothing more is told."""


def _bar(total: int, unit: str, description: str) -> _Bar:
    if not watched():
        return Lines(total, unit, description)
    return tqdm(total=total, desc=description, unit=unit or "it")


class Progress:
    """Counts finished units of `total`; use it as a context, so that a bar is closed whatever happens."""

    def __init__(self, total: int, unit: str, description: str):
        self._total, self._unit, self._description = total, unit, description
        self._bar: _Bar | None = None

    def advance(self, count: int = 1) -> None:
        """Adds `count` finished units; the last batch of a run may be smaller than the others."""
        if count == 0:
            return
        if self._bar is None:
            self._bar = _bar(self._total, self._unit, self._description)
        self._bar.update(min(count, self._total - self._bar.n))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class Bars:
    """A progress bar for each part of a run, one after the other; use it as a context."""

    def __init__(self) -> None:
        self._bar: _Bar | None = None
        self._part = ""

    def advance(self, part: str, count: int, total: int) -> None:
        """Adds `count` finished units of the `total` of a part; another part than before begins its own bar."""
        if part != self._part:
            self.__exit__()
            self._bar, self._part = _bar(total, "", part), part
        if self._bar is not None:
            self._bar.update(count)

    def note(self, text: str) -> None:
        """Shows what the current unit is doing."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
