"""How much is added to H's diagonal: a given amount, or the rung of a ladder with the least error on held-out rows.

Too little fits the noise of few rows, and float32 cannot factor H; too much ends at plain rounding. What is best
depends on rows per column and on the data: no constant serves all layers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ditq.core.errors import UserError
from ditq.weights.columns.factor import Factor, cholesky, mirror, reorder

Square = Float[np.ndarray, "in in"]
Ladder = float | Sequence[float]
"""One amount, or several to choose from, in the method's unit."""
Damped = tuple[Factor | None, float, list[str]]
"""A factor, the damping that it holds, and notes on any rescue."""
RAISE = 10.0
FLAT = 0.01
"""The search ends at a step along the ladder that changes the error by less, relative: errors on few held-out rows have
noise of that order."""


def rungs(ladder: Any) -> tuple[float, ...]:
    """The amounts, rising. Raises UserError unless they are zero or more."""
    try:
        given = (ladder,) if np.ndim(ladder) == 0 else tuple(ladder)
        amounts = () if any(map(_no_number, given)) else tuple(map(float, given))
    except (TypeError, ValueError, OverflowError):
        amounts = ()
    if not amounts or not all(0 <= amount < np.inf for amount in amounts):
        raise UserError("damping", got=repr(ladder), expected="one or more numbers from 0 on")
    return tuple(sorted(amounts))


def _no_number(value: Any) -> bool:
    """Whether `float` takes it all the same: text, True and False."""
    return isinstance(value, str | bytes) or np.asarray(value).dtype == bool


def best(
    amounts: tuple[float, ...], judge: Callable[[float], float]
) -> tuple[float, list[tuple[float, float]]]:
    """The amount with the least error, and all that were tried with their errors, rising.

    The error falls and then rises along the ladder: from its middle the search goes down, or else up, while it gets
    better. It ends where a step changes hardly anything: there the ladder is flat. A single amount is not tried.
    """
    if len(amounts) == 1:
        return amounts[0], []
    at = len(amounts) // 2
    tried = {at: judge(amounts[at])}
    flat = False
    for step in (-1, 1):
        while not flat and 0 <= at + step < len(amounts) and at + step not in tried:
            tried[at + step] = judge(amounts[at + step])
            change = tried[at + step] - tried[at]
            flat = abs(change) < FLAT * tried[at]
            if change >= 0:
                break
            at += step
    return amounts[at], [(amounts[i], tried[i]) for i in sorted(tried)]


def mean_of(diagonal: Float[np.ndarray, "in"]) -> np.floating:
    """The mean in the diagonal's own precision; in float64 where the sum overflows."""
    mean = diagonal.mean()
    return mean if np.isfinite(mean) else diagonal.mean(dtype=np.float64)


class DampedHessian:
    """H + lam I, factored for one lam after the other: H keeps one triangle of its memory, the last factor the other.

    `hessian` is symmetric and used up. A column without input has nothing to correct: it is rounded to nearest, not set
    to zero, since other pictures may need it. Its diagonal entry becomes the mean of all.
    """

    def __init__(self, hessian: Square):
        self.diagonal: Float[np.ndarray, "in"] = np.diagonal(hessian).copy()
        """The sum of squares of each input channel, the channels as they stand."""
        self._alive = np.where(self.diagonal == 0, mean_of(self.diagonal), self.diagonal)
        np.fill_diagonal(hessian, self._alive)
        self._matrix, self._order = hessian, np.arange(len(hessian))
        self._whole, self._last = True, None

    def put_in_order(self, order: Int[np.ndarray, "in"]) -> None:
        """Lets column i be the channel `order[i]`; layers that share an input share its order."""
        if np.array_equal(order, self._order):
            return
        reorder(self.whole(), np.argsort(self._order)[order])
        self._order = order

    def whole(self) -> Square:
        """H, its columns in order; valid until the next factor."""
        if not self._whole:
            mirror(self._matrix)
            np.fill_diagonal(self._matrix, self._alive[self._order])
            self._whole, self._last = True, None
        return self._matrix

    def at(self, amount: float) -> Damped:
        """The factor of H + amount I, the amount used, and notes on any rescue; valid until the next call.

        float32 first, then float64, then ten times the damping until it exceeds the mean of the diagonal; None: none
        is positive definite.
        """
        if self._last is None or self._last[0] != amount:
            self._last = amount, self._factored(amount)
        return self._last[1]

    def _factored(self, amount: float) -> Damped:
        notes: list[str] = []
        for lam, dtype in _attempts(amount, float(mean_of(self._alive))):
            matrix = self.whole().astype(dtype, copy=False)
            self._whole = matrix is not self._matrix
            factor = cholesky(matrix, lam)
            if lam != amount:
                notes.append(f"damping raised to {lam:.3g}")
            elif dtype == np.float64:
                notes.append("float64")
            if factor is not None:
                return factor, lam, notes
        return None, amount, [*notes, "no factor"]


def _attempts(amount: float, mean: float) -> Iterator[tuple[float, type]]:
    yield amount, np.float32
    yield amount, np.float64
    raised = max(amount * RAISE, 1e-6 * mean)
    while raised <= mean * RAISE:
        yield raised, np.float32
        raised *= RAISE
