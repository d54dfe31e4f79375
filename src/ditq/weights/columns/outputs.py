"""A layer on its grid, and some of its outputs at once: rounded, solved, and judged on the held-out rows."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int, Integer

from ditq.core import affine_numpy
from ditq.core.spec import Spec
from ditq.weights.columns.damping import Ladder, mean_of
from ditq.weights.columns.factor import Factor, solve_lower
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.solver import Grid, round_columns, treatment_order

Weight = Float32[np.ndarray, "out in"]
Columns = Float[np.ndarray, "in out"]
Codes = Integer[np.ndarray, "out in"]
WeightRows = Float32[np.ndarray, "some in"]
Scales = Float32[np.ndarray, "some groups"]
Room = Float32[np.ndarray, "values"]
SAMPLED = 64
"""Outputs on which the ranges worth trying are found: each range takes several passes over the weight."""
SAMPLED_OUTPUTS = 256
"""Outputs on which the damping is chosen: every output is a problem of its own, and all share H."""
OUTPUTS = 3072
"""Outputs that are solved at once: their arrays, so many rows of the weight, lie in memory at the same time."""
KEPT = "kept round-to-nearest"
"""How a note begins where the solver's codes are not used."""
ROWS = 64
"""Rows that are put on their grid at once: as many as fit the cache."""
SMALLEST = 1e-30
"""A float32 sum of squares below it has lost terms that underflowed."""
STRIP = 16
"""Rows that are transposed at once: a cache line of float32."""


@runtime_checkable
class LayerMethod(Protocol):
    """What GPTQ and Qronos differ in."""

    @property
    def title(self) -> str:
        """Its name in notes."""
        ...

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
        """Whether the range is the one with the least error; else it is the least that holds every weight."""
        ...

    @property
    def corrects(self) -> bool:
        """Whether the target is the float model's output for its own inputs."""
        ...

    def unit(self, hessian: Float32[np.ndarray, "in in"]) -> float:
        """What a damping of 1 adds to H's diagonal."""
        ...


class Layer:
    """A weight on its grid, rounded to nearest, and its method: what all its outputs share.

    Errors are sums of squares over the held-out rows.
    """

    def __init__(self, weight: Weight, moments: Moments, spec: Spec, method: LayerMethod, key: str):
        self.weight, self.moments, self.spec, self.method, self.key = weight, moments, spec, method, key
        self.order: Int[np.ndarray, "in"] = treatment_order(moments.diagonal, method.act_order)
        """The columns in reverse order of treatment."""
        self.dead = int((moments.diagonal == 0).sum())
        """Columns without input."""
        mean = mean_of(moments.diagonal)
        self._importance = moments.diagonal / mean if mean > 0 else None
        self._rooms: dict[str, Room] = {}
        self.inputs, self.quantized = moments.held_out()
        self.target = self.inputs @ weight.T
        """The float model's outputs."""
        self._shrinks = self._worth_a_try() if method.search else np.ones(1, np.float32)
        tiles = [self._rounded(weight[start : start + ROWS]) for start in range(0, len(weight), ROWS)]
        self.scale, self.zero, rounded = map(np.concatenate, zip(*tiles, strict=True))
        self.rounding = power(self.target - rounded.T)
        """The error of plain rounding."""

    def room(self, what: str, columns: int, outputs: int) -> Columns:
        """Memory for float32 values, reused by later calls for the same `what` that fit: fresh pages cost time."""
        size, known = columns * outputs, self._rooms.get(what, np.empty(0, np.float32))
        if len(known) < size:
            known = self._rooms[what] = np.empty(size, np.float32)
        return known[:size].reshape(columns, outputs)

    def _worth_a_try(self) -> affine_numpy.Shrinks:
        """What the ranges may be shrunken by, from outputs all over the layer."""
        sample = self.weight[:: max(1, len(self.weight) // SAMPLED)]
        return affine_numpy.sufficient_shrinks(sample, self.spec, self._importance)

    def _rounded(self, weight: WeightRows) -> tuple[Scales, Scales, Float32[np.ndarray, "some rows"]]:
        """Scales and zero points of some rows of the weight, and their outputs when rounded to nearest."""
        scale, zero = affine_numpy.searched_range(weight, self.spec, self._shrinks, self._importance)
        return scale, zero, affine_numpy.rounded(weight, scale, zero, self.spec) @ self.quantized.T


class Outputs:
    """Outputs `which` of a layer, ready to be solved with one factor or several, until others are made in their memory.

    Above 1, `step` keeps only every `step`-th column, in the order of treatment, as if there were no others. Not for a
    method that corrects: what it corrects comes from all columns.
    """

    def __init__(self, layer: Layer, which: slice, step: int = 1):
        weight, self._layer, self._order = layer.weight[which], layer, layer.order[::step]
        self._weight = layer.room("weight", len(self._order), len(weight))
        _put_in_order(weight, self._order, self._weight)
        self._grid = Grid.of(layer.scale[which], layer.zero[which], len(layer.order), layer.spec)
        self._grid = self._grid.take(self._order)
        self._held_out = layer.quantized.take(self._order, axis=1)
        self._target = layer.target[:, which] if step == 1 else layer.inputs[:, self._order] @ self._weight
        self._correction = None
        if layer.method.corrects:
            correction = layer.moments.correction(layer.weight, layer.key, which)
            self._correction = None if correction is None else correction.take(layer.order, axis=0)

    def solved(self, factor: Factor) -> tuple[Codes, float]:
        """The codes by the factor of the damped H, and their error."""
        codes, error = self._rounded_by(factor)
        return _in_own_order(codes, self._order), error

    def error(self, factor: Factor) -> float:
        """The same error relative to the float model's outputs, a norm by a norm."""
        return float(np.sqrt(self._rounded_by(factor)[1] / (power(self._target) or 1.0)))

    def _rounded_by(self, factor: Factor) -> tuple[Integer[np.ndarray, "some_in some"], float]:
        dtype = factor.lower.dtype
        weight, first = self._weight.astype(dtype, copy=False), None
        if self._correction is None:
            mismatch = self._layer.room("mismatch", *weight.shape)
            mismatch[:] = 0
        else:
            mismatch = solve_lower(factor, self._correction.astype(dtype, copy=False))
            first = weight[-1] + self._correction[-1] / (factor.lower[-1] @ factor.lower[-1])
        codes, lost = round_columns(weight, factor, self._grid, mismatch, first)
        return codes, power(self._target - self._held_out @ np.subtract(weight, lost, out=lost))


def solved_in_parts(layer: Layer, factor: Factor) -> tuple[Codes, float]:
    """All codes, `OUTPUTS` outputs after the other, and their error."""
    starts = range(0, len(layer.weight), OUTPUTS)
    parts = [Outputs(layer, slice(start, start + OUTPUTS)).solved(factor) for start in starts]
    return np.concatenate([codes for codes, _ in parts]), sum(error for _, error in parts)


def power(outputs: Float[np.ndarray, "rows some"]) -> float:
    """The sum of squares; in float64 where float32 has no room for it."""
    found = float(np.vdot(outputs, outputs))
    if SMALLEST < found < np.inf:
        return found
    wide = outputs.astype(np.float64)
    return float(np.vdot(wide, wide))


def _put_in_order(
    weight: Weight, order: Int[np.ndarray, "some_in"], columns: Float[np.ndarray, "some_in out"]
) -> None:
    """Puts the weight's columns into `columns`, in this order; a tile at a time, or each value would miss the cache."""
    for start in range(0, len(weight), STRIP):
        strip = np.ascontiguousarray(weight[start : start + STRIP].T)
        columns[:, start : start + STRIP] = strip.take(order, axis=0)


def _in_own_order(
    codes: Integer[np.ndarray, "in some"], order: Int[np.ndarray, "in"]
) -> Integer[np.ndarray, "some in"]:
    """The codes row by row, as all that follows reads them, their columns as the weight has them."""
    rows, places = np.empty(codes.shape[::-1], codes.dtype), np.argsort(order)
    for start in range(0, len(rows), ROWS):
        rows[start : start + ROWS] = codes[:, start : start + ROWS].take(places, axis=0).T
    return rows
