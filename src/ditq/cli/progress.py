"""A progress bar on a terminal, from the first finished unit on, so that a refused run prints its error alone."""

from tqdm import tqdm


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
            self._bar = tqdm(total=self._total, unit=self._unit, desc=self._description, disable=None)
        self._bar.update(min(count, self._total - self._bar.n))

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
