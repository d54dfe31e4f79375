"""The rows that judge a layer: kept out of its sums, few, and spread evenly over all rows that stream by."""

import numpy as np
from jaxtyping import Bool, Float32

EVERY = 17
"""One row in so many is held out; a prime, so that the rows walk through all tokens of a picture."""
MOST = 64
"""Rows that are kept; when there are more, every second one joins the rest."""

Rows = Float32[np.ndarray, "rows in"]
Which = Bool[np.ndarray, "rows"]
Streams = tuple[Rows, Rows | None]
"""What a layer receives in the float and in the quantized model; None: the same."""
Some = Float32[np.ndarray, "_ in"]
SomeOfBoth = tuple[Some, Some | None]


class HeldOut:
    """Takes batch after batch, and keeps copies of the rows that judge."""

    def __init__(self):
        self._kept: list[SomeOfBoth] = []
        self._few: list[SomeOfBoth] = []
        """All rows, while they are fewer than `EVERY`."""
        self.seen = 0
        """Rows of all batches so far."""
        self._stride, self._told = EVERY, False

    def take(self, batch: Streams, judges: bool | None = None) -> tuple[Which, list[SomeOfBoth]]:
        """Which rows of a batch are not held out, and earlier ones that are no longer.

        `judges` says whether all rows of the batch are held out, or none; None: one in so many.
        """
        rows, back = len(batch[0]), []
        self._told = self._told or judges is not None
        while not self._told and (self.seen + rows) // self._stride > MOST:
            back += self._thinned()
        held = np.arange(self.seen, self.seen + rows) % self._stride == self._stride - 1
        held = held if judges is None else np.full(rows, judges)
        self.seen += rows
        self._kept.append(_some(batch, held))
        if self.seen < EVERY:
            self._few.append(_some(batch, np.ones(rows, bool)))
        return ~held, back

    def rows(self) -> tuple[Rows, Rows]:
        """The rows that judge, of the float and of the quantized model, one array where these are the same.

        Rows too few to hold any out judge all.
        """
        x, xq = _joined(self._kept if self._told or self.seen >= EVERY else self._few)
        return x, x if xq is None else xq

    def _thinned(self) -> list[SomeOfBoth]:
        """Every second row, no longer kept."""
        self._stride *= 2
        if not self._kept:
            return []
        kept = _joined(self._kept)
        which = np.arange(len(kept[0])) % 2 == 1
        self._kept = [_some(kept, which)]
        return [_some(kept, ~which)]


def _some(streams: Streams, which: Which) -> SomeOfBoth:
    x, xq = streams
    return x[which], None if xq is None else xq[which]


def _joined(parts: list[SomeOfBoth]) -> SomeOfBoth:
    x = np.concatenate([x for x, _ in parts])
    if all(xq is None for _, xq in parts):
        return x, None
    return x, np.concatenate([x if xq is None else xq for x, xq in parts])
