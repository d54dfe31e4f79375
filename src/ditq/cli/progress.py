"""Progress bars, from the first finished unit on, so that a refused run shows its error alone."""

import sys

from tqdm import tqdm


def watched() -> bool:
    """Whether somebody sees progress bars: standard error is a terminal, or this is a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """Counts finished units of `total`; use it as a context, so that the bar is closed whatever happens."""

    def __init__(self, total: int, unit: str, description: str):
        self._total, self._unit, self._description = total, unit, description
        self._bar: tqdm | None = None

    def advance(self, count: int = 1) -> None:
        """Adds `count` finished units; the last batch of a run may be smaller than the others."""
        if count == 0:
            return
        if self._bar is None:
            self._bar = tqdm(
                total=self._total, unit=self._unit, desc=self._description, disable=not watched()
            )
        self._bar.update(min(count, self._total - self._bar.n))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


class Bars:
    """A progress bar for each part of a run, one after the other; use it as a context."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._part = ""

    def advance(self, part: str, count: int, total: int) -> None:
        """Adds `count` finished units of the `total` of a part; another part than before begins its own bar."""
        if part != self._part:
            self.__exit__()
            self._bar, self._part = tqdm(total=total, desc=part, disable=not watched()), part
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
