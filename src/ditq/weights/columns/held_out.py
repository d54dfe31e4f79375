"""A layer's held-out rows, which judge the result: kept out of its sums, few, spread evenly over all rows."""

import numpy as np
from jaxtyping import Bool, Float32

EVERY = 17
"""One row in so many is held out; a prime, so that the rows walk through all tokens of a picture."""
FEW = 8 * EVERY
"""Rows from which on the held-out ones judge alone; of fewer, all are kept, for cross-validation."""
MOST = 64
"""Rows that are kept; when there are more, every second one joins the rest."""
MOST_OF_BATCHES = 1024
"""Of batches that are held out as a whole, rows that are kept; when there are more, two of three are dropped."""

InputRows = Float32[np.ndarray, "rows in"]
Which = Bool[np.ndarray, "rows"]
Batch = tuple[InputRows, InputRows | None]
"""What a layer receives in the float and in the quantized model; None: the same."""
KeptRows = Float32[np.ndarray, "_ in"]
Kept = tuple[KeptRows, KeptRows | None]
"""Some rows of a batch."""


class HeldOut:
    """Takes batch after batch, and keeps copies of the held-out rows."""

    def __init__(self):
        self._kept: list[Kept] = []
        self._all: list[Kept] = []
        """All rows, while they are fewer than `FEW`."""
        self.seen = 0
        """Rows of all batches so far."""
        self._stride, self._by_batch = EVERY, False
        self._aside, self._aside_stride = 0, 1
        """Rows of the batches held out as a whole, and of how many one is kept."""

    def take(self, batch: Batch, held_out: bool | None = None) -> tuple[Which, list[Kept]]:
        """Which rows of a batch are not held out, and earlier ones that are no longer.

        `held_out` says whether all rows of the batch are held out, or none; None: one in so many.
        """
        rows, back = len(batch[0]), []
        self._by_batch = self._by_batch or held_out is not None
        if held_out is not None:
            return self._take_whole(batch, held_out), []
        while not self._by_batch and (self.seen + rows) // self._stride > MOST:
            back += self._thinned()
        held = np.arange(self.seen, self.seen + rows) % self._stride == self._stride - 1
        self._kept.append(_some(batch, held))
        self._count(batch)
        return ~held, back

    def rows(self) -> tuple[InputRows, InputRows]:
        """The held-out rows, of the float and of the quantized model, one array where these are the same.

        All rows, where they are too few to hold any out.
        """
        x, xq = _joined(self._kept if self._by_batch or self.seen >= EVERY else self._all)
        return x, x if xq is None else xq

    def few(self) -> Kept | None:
        """All rows, where they are so few that those held out cannot judge alone; else None."""
        return _joined(self._all) if self.seen < FEW else None

    def _take_whole(self, batch: Batch, held_out: bool) -> Which:
        """Which rows of a batch that is held out, or not, as a whole are not: all or none."""
        rows = len(batch[0])
        if held_out:
            numbers = np.arange(self._aside, self._aside + rows)
            self._aside += rows
            self._kept.append(_some(batch, numbers % self._aside_stride == 0))
            while sum(len(x) for x, _ in self._kept) > MOST_OF_BATCHES:
                kept = _joined(self._kept)
                # a third, not half: pictures have even numbers of tokens, and each token shall have its turn
                self._kept = [_some(kept, np.arange(len(kept[0])) % 3 == 0)]
                self._aside_stride *= 3
        self._count(batch)
        return np.full(rows, not held_out)

    def _count(self, batch: Batch) -> None:
        self.seen += len(batch[0])
        if self.seen < FEW:
            self._all.append(_some(batch, np.ones(len(batch[0]), bool)))
        else:
            self._all.clear()

    def _thinned(self) -> list[Kept]:
        """Every second row, no longer kept."""
        self._stride *= 2
        if not self._kept:
            return []
        kept = _joined(self._kept)
        which = np.arange(len(kept[0])) % 2 == 1
        self._kept = [_some(kept, which)]
        return [_some(kept, ~which)]


def _some(batch: Batch, which: Which) -> Kept:
    x, xq = batch
    return x[which], None if xq is None else xq[which]


def _joined(parts: list[Kept]) -> Kept:
    x = np.concatenate([x for x, _ in parts])
    if all(xq is None for _, xq in parts):
        return x, None
    return x, np.concatenate([x if xq is None else xq for x, xq in parts])
