"""Few calibration rows: a solver's result is kept only where it beats round-to-nearest in cross-validation.

With fewer rows than columns a solver can make the error on its own rows as small as it likes, and be worse than
round-to-nearest on all others; the one or two rows that would be held out say little. So all rows judge in turn: the
rest of them is solved with, and the part that is left out must agree, in each of `FOLDS` parts, and all of them by a
margin.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from ditq.core.spec import Spec
from ditq.weights.columns.damping import best, rungs
from ditq.weights.columns.factor import Factor
from ditq.weights.columns.held_out import EVERY
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.outputs import (
    KEPT,
    SAMPLED_OUTPUTS,
    Layer,
    LayerMethod,
    Outputs,
    Weight,
    power,
    solved_in_parts,
)

FOLDS = 4
"""Parts that the rows are left out in, each of rows that stand together: neighbours are alike."""
MARGIN = 0.5
"""Of the error of rounding, this part by the root of the number of rows must be gone: less may be chance."""
Rows = Float32[np.ndarray, "rows in"]


@dataclass(frozen=True)
class Verdict:
    """What cross-validation says of a layer."""

    damping: float | None
    """The best amount, in the method's unit; None: round-to-nearest is to be kept."""
    rounding: float
    """The error of plain rounding on all rows, each left out once; a norm by a norm."""
    error: float
    """That of the solver on the same rows."""
    ladder: list[tuple[float, float]]
    """The dampings that were tried and their errors, on some of the outputs."""
    note: str | None = None
    """Why round-to-nearest is to be kept."""


def all_rows(moments: Moments, rows: tuple[Rows, Rows | None]) -> Moments:
    """The moments of all rows, none left out, which are judged by the same rows."""
    return _moments(moments, rows, np.ones(len(rows[0]), bool), np.ones(len(rows[0]), bool))


def cross_validated(
    weight: Weight, moments: Moments, rows: tuple[Rows, Rows | None], spec: Spec, method: LayerMethod
) -> Verdict:
    """Whether `method` beats round-to-nearest on rows that it has not seen, and with which damping."""
    distinct = len(np.unique(rows[0], axis=0))
    if distinct < EVERY:
        alike = f", {distinct} of them distinct," if distinct < len(rows[0]) else ""
        return _kept(f"{len(rows[0])} rows{alike} are too few to judge {method.title} by")
    part = np.arange(len(rows[0])) * FOLDS // len(rows[0])
    folds = [_Fold(weight, moments, rows, part == number, spec, method) for number in range(FOLDS)]
    if any(fold.unit == 0 for fold in folds):
        return _kept("a part of the rows is all zeros")
    target = sum(fold.power for fold in folds) or 1.0

    def error(amount: float) -> float:
        return float(np.sqrt(sum(fold.sampled(amount) for fold in folds) / target))

    amount, tried = best(rungs(method.damping), error)
    ladder = [(rung, found) for rung, found in tried if np.isfinite(found)]
    found = [fold.error(amount) for fold in folds]
    size = sum(power(fold.layer.target) for fold in folds) or 1.0
    rounding, after = (
        float(np.sqrt(sum(errors) / size)) for errors in ([f.layer.rounding for f in folds], found)
    )
    won = sum(one < fold.layer.rounding for one, fold in zip(found, folds, strict=True))
    enough = 1 - MARGIN / np.sqrt(len(rows[0]))
    if won < FOLDS or not after <= enough * rounding:
        note = (
            f"{method.title} beat it on {won} of {FOLDS} parts of the {len(rows[0])} rows, each left out once"
        )
        if won == FOLDS:
            note += f", but left {after / rounding:.1%} of its error, and not {enough:.1%}"
        return Verdict(None, rounding, rounding, ladder, f"{KEPT}: {note}")
    return Verdict(amount, rounding, after, ladder)


class _Fold:
    """The rows without one part, which judges."""

    def __init__(
        self,
        weight: Weight,
        moments: Moments,
        rows: tuple[Rows, Rows | None],
        own: np.ndarray,
        spec: Spec,
        method: LayerMethod,
    ):
        self.layer = Layer(weight, _moments(moments, rows, ~own, own), spec, method, "")
        self._hessian = self.layer.moments.hessian
        self._hessian.put_in_order(self.layer.order)
        self.unit = method.unit(self._hessian.whole())
        step = max(1, len(weight) // SAMPLED_OUTPUTS)
        self._which = slice(None, None, step)
        self.power = power(self.layer.target[:, self._which])

    def sampled(self, amount: float) -> float:
        """The error on some of the outputs, a sum of squares."""
        factor = self._factor(amount)
        return np.inf if factor is None else Outputs(self.layer, self._which).solved(factor)[1]

    def error(self, amount: float) -> float:
        """That on all outputs."""
        factor = self._factor(amount)
        return np.inf if factor is None else solved_in_parts(self.layer, factor)[1]

    def _factor(self, amount: float) -> Factor | None:
        return self._hessian.at(amount * self.unit)[0]


def _kept(why: str) -> Verdict:
    return Verdict(None, np.nan, np.nan, [], f"{KEPT}: {why}")


def _moments(
    moments: Moments, rows: tuple[Rows, Rows | None], used: np.ndarray, held_out: np.ndarray
) -> Moments:
    """The moments of the rows `used`, those `held_out` kept aside to judge."""
    made, (x, xq) = Moments(moments.columns, moments.name, cross=moments.cross), rows
    for which, aside in ((used, False), (held_out, True)):
        made.add(x[which], None if xq is None else xq[which], aside)
    return made.finish()
