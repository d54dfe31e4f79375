"""Some of a layer's outputs at once: on their grid, rounded and solved, and judged on the rows that are held out."""

from copy import copy
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float, Float32, Int, Integer

from ditq.core import affine
from ditq.core.spec import Spec
from ditq.weights.damping import Ladder
from ditq.weights.factor import Factor, solve_lower
from ditq.weights.hessian import Moments
from ditq.weights.solver import Grid, round_columns, treatment_order

Weight = Float32[np.ndarray, "out in"]
Columns = Float[np.ndarray, "in out"]
Codes = Integer[np.ndarray, "out in"]
Rows = Float32[np.ndarray, "some in"]
Scales = Float32[np.ndarray, "some groups"]
CANDIDATES, LEAST_RANGE = 6, 0.5
"""Of the search for the range: each is a pass over the weight, which is a good part of a wide layer's time."""
ROWS, COLUMNS = 64, 16
"""Rows that are put on their grid at once, and columns that are transposed at once: what the cache holds."""


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


class Layer:
    """A weight, its grid and its method, and what all its outputs share."""

    def __init__(self, weight: Weight, moments: Moments, spec: Spec, method: LayerMethod, key: str):
        self.weight, self.moments, self.spec, self.method, self.key = weight, moments, spec, method, key
        self.order: Int[np.ndarray, "in"] = treatment_order(moments.diagonal, method.act_order)
        """The columns in reverse order of treatment."""
        self.dead = int((moments.diagonal == 0).sum())
        """Columns without input."""
        mean = moments.diagonal.mean()
        self.importance = moments.diagonal / mean if mean > 0 else None
        """The mean square of each input, relative to all."""
        self.inputs, self.quantized = moments.held_out()

    @cached_property
    def quantized_in_order(self) -> Float32[np.ndarray, "rows in"]:
        """The quantized model's rows that judge, their columns in the order of `order`."""
        return self.quantized.take(self.order, axis=1)

    def rounded(self, weight: Rows) -> tuple[Scales, Scales, Codes, Float32[np.ndarray, "some rows"]]:
        """Scales, zero points and codes of some rows of the weight, rounded to nearest, and what their outputs lose."""
        spec, columns = self.spec, weight.shape[1]
        if self.method.search:
            scale, zero = affine.mse_range(weight, spec, CANDIDATES, LEAST_RANGE, self.importance)
        else:
            scale, zero = affine.minmax_range(weight, spec)
        grouped, steps, zeros = weight.reshape(*scale.shape, -1), scale[..., None], zero[..., None]
        codes = affine.nearest(grouped, steps, zeros, spec)
        lost = grouped - (codes - zeros) * steps
        flat = codes.reshape(-1, columns).astype(affine.code_dtype(spec, np))
        return scale, zero, flat, lost.reshape(-1, columns) @ self.quantized.T


class Outputs:
    """Outputs `which` of a layer, on their grid and rounded; errors are sums of squares over the rows that judge."""

    def __init__(self, layer: Layer, which: slice):
        self._layer, weight = layer, layer.weight[which]
        tiles = [layer.rounded(weight[start : start + ROWS]) for start in range(0, len(weight), ROWS)]
        self.scale, self.zero, self.rounded, wrong = map(np.concatenate, zip(*tiles, strict=True))
        target = layer.inputs @ weight.T
        self.power = float(np.vdot(target, target))
        """Of the float model's outputs."""
        same = layer.inputs is layer.quantized
        self._upstream = None if same else target - layer.quantized @ weight.T
        self.rounding = self._error(wrong.T)
        """The error of plain rounding."""
        self._judging = layer.quantized_in_order
        self._weight = _ordered(weight, layer.order)
        self._grid = Grid.of(self.scale, self.zero, len(layer.order), layer.spec).take(layer.order)
        self._correction = None
        if layer.method.corrects:
            correction = layer.moments.correction(layer.weight, layer.key, which)
            self._correction = None if correction is None else correction.take(layer.order, axis=0)

    def thinned(self, step: int) -> "Outputs":
        """The same with every `step`-th column alone, in the order of treatment, as if there were no others.

        Not for a method that corrects: what it corrects comes from all columns.
        """
        outputs = copy(self)
        outputs._judging, outputs._weight = self._judging[:, ::step], self._weight[::step]
        outputs._grid = self._grid.take(np.arange(0, len(self._weight), step))
        target = self._layer.inputs[:, self._layer.order[::step]] @ outputs._weight
        outputs.power = float(np.vdot(target, target))
        if self._upstream is not None:
            outputs._upstream = target - outputs._judging @ outputs._weight
        return outputs

    def solved(self, factor: Factor) -> tuple[Codes, float]:
        """The codes by the factor of the damped H, and their error."""
        codes, error = self._rounded_by(factor)
        return _in_own_order(codes, self._layer.order), error

    def error(self, factor: Factor) -> float:
        """The same error relative to the float model's outputs, a norm by a norm."""
        return float(np.sqrt(self._rounded_by(factor)[1] / (self.power or 1.0)))

    def _rounded_by(self, factor: Factor) -> tuple[Integer[np.ndarray, "some_in some"], float]:
        dtype = factor.lower.dtype
        weight, mismatch, first = self._weight.astype(dtype, copy=False), None, None
        if self._correction is not None:
            mismatch = solve_lower(factor, self._correction.astype(dtype, copy=False))
            first = weight[-1] + self._correction[-1] / (factor.lower[-1] @ factor.lower[-1])
        codes, lost = round_columns(weight, factor, self._grid, mismatch, first)
        return codes, self._error(self._judging @ lost)

    def _error(self, wrong: Float[np.ndarray, "rows some"]) -> float:
        """Of outputs that are wrong by so much because of the weight: with what layers before have changed."""
        wrong = wrong if self._upstream is None else wrong + self._upstream
        return float(np.vdot(wrong, wrong))


def _ordered(weight: Weight, order: Int[np.ndarray, "in"]) -> Columns:
    """The weight, transposed, its columns in this order; a tile at a time, or each value would miss the cache."""
    columns = np.empty(weight.shape[::-1], weight.dtype)
    for start in range(0, len(order), COLUMNS):
        columns[start : start + COLUMNS] = weight.take(order[start : start + COLUMNS], axis=1).T
    return columns


def _in_own_order(
    codes: Integer[np.ndarray, "in some"], order: Int[np.ndarray, "in"]
) -> Integer[np.ndarray, "some in"]:
    """The codes row by row, as all that follows reads them, their columns as the weight has them."""
    rows, places = np.empty(codes.shape[::-1], codes.dtype), np.argsort(order)
    for start in range(0, len(order), COLUMNS):
        rows[:, start : start + COLUMNS] = codes[places[start : start + COLUMNS]].T
    return rows
