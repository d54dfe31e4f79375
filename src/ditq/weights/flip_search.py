"""Which weights of a row to move to their other code: a local search over all rows at once, in NumPy.

A row's move D, each entry 0 or that weight's `delta`, changes the loss by g D' + c/2 D H D': a quadratic problem in as
many binary variables as the row has weights. The curvature couples the rows.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int

PARTNERS = 16
"""Weights of a row that pairs are made of: those whose flips alone cost least."""
KICKS, KICKED_WEIGHTS = (2, 64), 1 << 13
"""How often rows in a local minimum are kicked and searched again: between these bounds, by the layer's size."""
KICKED = (2, 5)
"""Random flips in a kick: from the first number to below the second."""
CHUNKS = 16
"""Parts of a layer's rows that are searched one after the other."""
CHANGING = ("step", "slope", "flipped", "value")
"""What a flip changes in a state of the search."""
LEAST = 1e-5
"""What a flip must gain, relative to the greatest cost or gain of a single flip of the row: less is rounding error."""

Matrix = Float32[np.ndarray, "out in"]
PerRow = Float32[np.ndarray, "out"]
RowsOfMatrix = Float32[np.ndarray, "some in"]
RowNumbers = Int[np.ndarray, "some"]


@dataclass(frozen=True)
class Quadratic:
    """The change of the loss with a layer's weight, to second order: tr(g D' + C D H D' / 2) for a change D."""

    gradient: Matrix
    second: Float32[np.ndarray, "in in"]
    """H, the second moments of the layer's inputs."""
    curvature: Float32[np.ndarray, "out out"]
    """C: how the loss bends with the layer's outputs."""

    def change(self, move: Matrix) -> float:
        """What a move adds to the loss."""
        return float(((self.gradient + 0.5 * self.curvature @ move @ self.second) * move).sum())


def best_flips(loss: Quadratic, delta: Matrix, rng: np.random.Generator) -> Bool[np.ndarray, "out in"]:
    """The weights to flip.

    `delta` is what a flip adds to each weight; 0: that weight stays. Rows are searched a few at a time. Each knows what
    those before it do, and takes it that the few at its side work against it, so that the loss never rises.
    """
    kicks = int(np.clip(KICKED_WEIGHTS // max(1, delta.size), *KICKS))
    flips, pressed = np.zeros(delta.shape, bool), np.zeros_like(delta)
    for some in np.array_split(rng.permutation(len(delta)), min(len(delta), CHUNKS)):
        slope = loss.gradient[some] + loss.curvature[some] @ pressed
        bend = np.abs(loss.curvature[np.ix_(some, some)]).sum(axis=1)
        flips[some] = best_of_rows(slope, loss.second, bend, delta[some], rng, kicks)
        pressed[some] = (flips[some] * delta[some]) @ loss.second
    return flips


def best_of_rows(
    slope: Matrix,
    second: Float32[np.ndarray, "in in"],
    bend: PerRow,
    delta: Matrix,
    rng: np.random.Generator,
    kicks: int,
) -> Bool[np.ndarray, "out in"]:
    """The flips that bring slope D' + bend/2 D H D' of each row to a low value, never above 0.

    Flips the best weight of every row until none gains, then the best pair (of the `PARTNERS` likeliest; in a row that
    has no more weights, of all), in turns until the row is in a local minimum; then flips a few at random (a kick),
    begins again, and keeps the lower result, `kicks` times.
    """
    best = _State(slope, second, bend, delta)
    best.descend()
    for _ in range(kicks):
        tried = best.kicked(rng)
        tried.descend()
        best.take(tried, np.flatnonzero(tried.value < best.value - best.least))
    return best.flipped & best.free & (best.value < 0)[:, None]


class _State:
    """Every row's flips so far, the change of the loss by them, and the loss's slope there."""

    def __init__(self, slope: Matrix, second: Float32[np.ndarray, "in in"], bend: PerRow, delta: Matrix):
        self.second, self.bend = second, bend
        self.step, self.slope = delta.copy(), slope.copy()
        self.flipped = np.zeros(delta.shape, bool)
        self.value = np.zeros(len(delta), np.float32)
        self.least = LEAST * np.abs(self.alone(np.arange(len(delta)))).max(axis=1, initial=0)
        self.free = delta != 0

    def alone(self, rows: RowNumbers) -> RowsOfMatrix:
        """What each single flip of these rows adds."""
        step, bend = self.step[rows], self.bend[rows, None]
        return step * (self.slope[rows] + 0.5 * bend * step * np.diagonal(self.second))

    def flip(self, rows: RowNumbers, at: RowNumbers) -> None:
        """Flips one weight in each of these rows; their values are left to the caller."""
        step = self.step[rows, at]
        self.slope[rows] += (self.bend[rows] * step)[:, None] * self.second[at]
        self.step[rows, at] = -step
        self.flipped[rows, at] ^= True

    def descend(self) -> None:
        """Single flips, and pairs where no single one gains, until no row has either."""
        rows = np.arange(len(self.value))
        for _ in range(4 * self.step.shape[1]):  # an end in any case
            if not len(rows):
                return
            alone = self.alone(rows)
            at = alone.argmin(axis=1)
            gain = alone[np.arange(len(rows)), at]
            sure = gain < -self.least[rows]
            self.value[rows[sure]] += gain[sure]
            self.flip(rows[sure], at[sure])
            rows = np.concatenate([rows[sure], self._pair(rows[~sure], alone[~sure])])

    def _pair(self, rows: RowNumbers, alone: RowsOfMatrix) -> Int[np.ndarray, "gained"]:
        """Flips the best pair of each row where it gains; those rows."""
        if not len(rows):
            return rows
        count = min(PARTNERS, alone.shape[1])
        some = np.argpartition(np.where(self.free[rows], alone, np.inf), count - 1, axis=1)[:, :count]
        cost, step = (np.take_along_axis(array, some, axis=1) for array in (alone, self.step[rows]))
        both = self.second[some[:, :, None], some[:, None, :]] * step[:, :, None] * step[:, None, :]
        both = cost[:, :, None] + cost[:, None, :] + self.bend[rows, None, None] * both
        both[:, np.arange(count), np.arange(count)] = np.inf
        flat = both.reshape(len(rows), -1)
        at = flat.argmin(axis=1)
        gain = flat[np.arange(len(rows)), at]
        sure = gain < -self.least[rows]
        rows, some, at = rows[sure], some[sure], at[sure]
        self.value[rows] += gain[sure]
        for place in (at // count, at % count):
            self.flip(rows, some[np.arange(len(rows)), place])
        return rows

    def kicked(self, rng: np.random.Generator) -> "_State":
        """Another state: this one after a few random flips in every row."""
        other = object.__new__(_State)
        changing = {name: getattr(self, name).copy() for name in CHANGING}
        other.__dict__ |= self.__dict__ | changing
        count = min(int(rng.integers(*KICKED)), self.step.shape[1])
        keys = rng.random(self.step.shape, np.float32) - self.free
        chosen = np.argpartition(keys, count - 1, axis=1)[:, :count]
        rows = np.arange(len(keys))
        for at in chosen.T:
            other.value += other.alone(rows)[rows, at]
            other.flip(rows, at)
        return other

    def take(self, other: "_State", rows: RowNumbers) -> None:
        """Puts these rows of another state in place of its own."""
        for name in CHANGING:
            getattr(self, name)[rows] = getattr(other, name)[rows]
