"""One layer solved: prepared, damped, rounded column by column, and judged against plain rounding."""

import time
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Protocol

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Integer

from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights.damping import Damped, Ladder, best, damped_factor, rungs
from ditq.weights.factor import Factor, solve_lower
from ditq.weights.hessian import Moments
from ditq.weights.solver import Grid, round_columns, treatment_order

Weight = Float32[np.ndarray, "out in"]
Columns = Float[np.ndarray, "in out"]
CANDIDATES, LEAST_RANGE = 6, 0.5
"""Of the search for the range: each is a pass over the weight, which is a good part of a wide layer's time."""
TILE = 64
"""Columns that are transposed at once."""
SAMPLED_OUTPUTS = 128
"""Outputs on which the damping is chosen: every output is a problem of its own, and all share H."""


class LayerMethod(Protocol):
    """What GPTQ and Qronos differ in."""

    @property
    def damping(self) -> Ladder:
        """Added to H's diagonal: one amount, or several to choose from."""
        ...

    @property
    def act_order(self) -> bool:
        """Whether the columns with the largest inputs come first."""
        ...

    @property
    def search(self) -> bool:
        """Whether the range is the MSE-optimal one; else it is the least that holds every weight."""
        ...

    @property
    def corrects(self) -> bool:
        """Whether the target is the float model's output for its own inputs."""
        ...

    def unit(self, hessian: Float32[np.ndarray, "in in"]) -> float:
        """What a damping of 1 adds to H's diagonal."""
        ...


@dataclass(frozen=True)
class LayerReport:
    """How a layer fared. Errors are |X W' - X~ Q'| / |X W'| on the rows that judge, Frobenius norms."""

    name: str
    method: str
    error_rounding: float
    """Of plain rounding on the same scales."""
    error: float
    """Of what is returned; never above `error_rounding`."""
    damping: float
    """In the method's unit; what was used, also where it had to be raised."""
    condition: float
    """A lower bound of the condition number of the damped H."""
    rows: int
    judged_rows: int
    ladder: list[tuple[float, float]] = field(default_factory=list)
    """The dampings that were tried and their errors on some of the outputs."""
    dead_columns: int = 0
    fallback: list[str] = field(default_factory=list)
    """What had to be done besides the plan, in words: float64, a raised damping, rounding."""
    seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A layer in reverse order of treatment."""

    hessian: Float32[np.ndarray, "in in"]
    weight: Columns
    correction: Columns | None
    """X~'(X - X~)W'."""
    grid: Grid
    order: np.ndarray

    def outputs(self, which: slice) -> "_Prepared":
        """Some of the outputs."""
        grid = replace(self.grid, scale=self.grid.scale[:, which], zero=self.grid.zero[:, which])
        correction = None if self.correction is None else self.correction[:, which]
        return replace(self, weight=self.weight[:, which], correction=correction, grid=grid)

    def codes(self, lost: Columns) -> Integer[np.ndarray, "out in"]:
        """The codes of weights that lose so much, row by row, in the weight's own order of columns."""
        dtype = np.int8 if self.grid.spec.symmetric else np.uint8
        codes, own = np.empty(lost.shape[::-1], dtype), np.argsort(self.order)
        for start in range(0, len(own), TILE):
            tile = own[start : start + TILE]
            codes[:, start : start + TILE] = self.grid.codes(self.weight[tile] - lost[tile], tile).T
        return codes

    def solve(self, factor: Factor, lam: float) -> Columns:
        """What each weight loses."""
        dtype = factor.lower.dtype
        weight, mismatch, first = self.weight.astype(dtype, copy=False), None, None
        if self.correction is not None:
            mismatch = solve_lower(factor, self.correction.astype(dtype, copy=False))
            first = weight[-1] + self.correction[-1] / (self.hessian[-1, -1] + lam)
        return round_columns(weight, factor, self.grid, mismatch, first)


def solve_layer(
    weight: Weight, moments: Moments, spec: Spec, method: LayerMethod, name: str = "layer", key: str = ""
) -> tuple[QuantizedWeight, LayerReport]:
    """A weight on its grid by GPTQ or Qronos, and how it fared; plain rounding where that is no worse on judging rows.

    `moments` are finished; `key` is the layer's name among the weights that they were made with. The damping is chosen
    on some of the outputs, then all are solved with it. Raises UserError for a weight that is not finite.
    """
    started = time.perf_counter()
    if not np.isfinite(weight).all():
        raise UserError(f"{name}: weight", got="values that are not finite", expected="numbers")
    spec.groups(weight.shape[1], name)
    given = mx.array(weight)
    scale, zero = _range(given, moments, spec, method.search)
    rounded = affine.quantize(given, scale, zero, spec)
    judge = _Judge(weight, moments)
    error_rounding = judge(np.array(given - affine.dequantize(rounded, scale, zero), copy=False).T)

    kept = QuantizedWeight(rounded, scale, zero, spec)
    report = LayerReport(
        name, type(method).__name__, error_rounding, error_rounding, 0.0, 1.0, moments.rows, judge.rows
    )
    live = moments.diagonal > 0
    report = replace(report, dead_columns=int((~live).sum()))
    if live.any():
        prepared = _prepare(
            weight, moments, Grid.of(np.array(scale), np.array(zero), weight.shape[1], spec), method, key
        )
        kept, report = _solve(prepared, kept, judge, method, report)
    else:
        report.fallback.append("rounding: all inputs are zero")
    return kept, replace(report, seconds=time.perf_counter() - started)


def _solve(
    prepared: _Prepared, rounded: QuantizedWeight, judge: "_Judge", method: LayerMethod, report: LayerReport
) -> tuple[QuantizedWeight, LayerReport]:
    unit = method.unit(prepared.hessian)
    sample = slice(None, None, max(1, prepared.weight.shape[1] // SAMPLED_OUTPUTS))
    judge = judge.columns(prepared.order)
    sampled, sampled_judge = prepared.outputs(sample), judge.outputs(sample)

    kept: Damped | None = None
    least = np.inf

    def error(amount: float) -> float:
        nonlocal kept, least
        factor, lam, notes = damped_factor(prepared.hessian, amount * unit)
        if factor is None:
            return np.inf
        found = sampled_judge(sampled.solve(factor, lam))
        if found < least:
            kept, least = (factor, lam, notes), found
        return found

    amount, judged = best(rungs(method.damping), error)
    ladder = [(rung, found) for rung, found in judged if np.isfinite(found)]
    factor, lam, notes = kept or damped_factor(prepared.hessian, amount * unit)
    if factor is None:
        return rounded, replace(report, ladder=ladder, fallback=[*notes, "rounding: H cannot be factored"])
    lost = prepared.solve(factor, lam)
    solved_error = judge(lost)
    report = replace(
        report,
        error=solved_error,
        damping=lam / unit,
        condition=factor.condition,
        ladder=ladder,
        fallback=notes,
    )
    # Written so that NaN is refused as well
    if not solved_error <= report.error_rounding:
        said = [*notes, "rounding: no worse on the rows that judge"]
        return rounded, replace(report, error=report.error_rounding, fallback=said)
    return replace(rounded, codes=mx.array(prepared.codes(lost))), report


def _range(
    weight: Float[mx.array, "out in"], moments: Moments, spec: Spec, search: bool
) -> tuple[Float[mx.array, "out groups"], Float[mx.array, "out groups"]]:
    if not search:
        return affine.minmax_range(weight, spec)
    mean = moments.diagonal.mean()
    power = mx.array(moments.diagonal / mean) if mean > 0 else None
    return affine.mse_range(weight, spec, CANDIDATES, LEAST_RANGE, power)


def _prepare(weight: Weight, moments: Moments, grid: Grid, method: LayerMethod, key: str) -> _Prepared:
    """The columns in order. A column without input has nothing to correct: it is rounded to nearest, not set to zero,
    since other pictures may need it."""
    order = treatment_order(moments.diagonal, method.act_order)
    hessian = moments.hessian.take(order, axis=0)
    for row in hessian:
        row[:] = row[order]
    dead = np.flatnonzero(np.diagonal(hessian) == 0)
    hessian[dead, dead] = np.diagonal(hessian).mean()
    correction = moments.correction(weight, key) if method.corrects else None
    return _Prepared(
        hessian,
        _ordered(weight, order),
        None if correction is None else correction.take(order, axis=0),
        grid.take(order),
        order,
    )


def _ordered(weight: Weight, order: np.ndarray) -> Columns:
    """The weight, transposed, its columns in this order; a tile at a time, or each value would miss the cache."""
    columns = np.empty(weight.shape[::-1], weight.dtype)
    for start in range(0, len(order), TILE):
        columns[start : start + TILE] = weight.take(order[start : start + TILE], axis=1).T
    return columns


class _Judge:
    """The relative error of a quantized weight on the rows that judge: X~ times what is lost, and what layers before
    have changed, by the float model's output."""

    def __init__(self, weight: Weight, moments: Moments):
        inputs, self._quantized = moments.held_out()
        target = inputs @ weight.T
        self._upstream = None if inputs is self._quantized else target - self._quantized @ weight.T
        self._power = np.square(target).sum(axis=0)
        self.rows = len(inputs)

    def columns(self, order: np.ndarray) -> "_Judge":
        """A judge of weights whose columns stand in another order."""
        judge = copy(self)
        judge._quantized = self._quantized.take(order, axis=1)
        return judge

    def outputs(self, which: slice) -> "_Judge":
        """A judge of some of the outputs."""
        judge = copy(self)
        judge._upstream = None if self._upstream is None else self._upstream[:, which]
        judge._power = self._power[which]
        return judge

    def __call__(self, lost: Columns) -> float:
        """The error; 0 where there is nothing to be wrong about."""
        wrong = self._quantized @ lost
        wrong = np.linalg.norm(wrong if self._upstream is None else wrong + self._upstream)
        size = np.sqrt(self._power.sum())
        return float(wrong / size) if size > 0 else float(wrong)
