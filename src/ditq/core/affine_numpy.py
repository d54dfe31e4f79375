"""Ranges and rounding to a grid in NumPy, for solvers on the CPU: `affine`'s arithmetic in place and in few passes.

A solver puts millions of weights on their grid between two products; what these passes take is a good part of a wide
layer's time. Matrices are meant to be a few rows of a weight, so that they stay in the cache.
"""

import numpy as np
from jaxtyping import Float, Float32

from ditq.core.affine import grid_between
from ditq.core.spec import Spec

Values = Float[np.ndarray, "..."]
Matrix = Float32[np.ndarray, "rows columns"]
Scales = Float32[np.ndarray, "rows groups"]


def minmax_range(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """Scales and zero points of the least grid that holds every value of w; zero points are whole numbers."""
    return grid_between(*_extremes(w, spec), spec)


def mse_range(
    w: Matrix,
    spec: Spec,
    candidates: int,
    least: float,
    importance: Float32[np.ndarray, "columns"] | None = None,
) -> tuple[Scales, Scales]:
    """Scales and zero points that minimise each group's squared error over `candidates` shrunken min-max ranges.

    The shrink factors run evenly from 1 down to `least`. `importance` weighs the columns' squared errors: the mean
    squares of a layer's inputs make it the error of its output, were the inputs independent.
    """
    scale, zero = minmax_range(w, spec)
    places = w.reshape(*scale.shape, -1) / scale[..., None]
    shrinks = np.linspace(1.0, least, candidates, dtype=np.float32)
    # A shrunken range keeps its zero point and has smaller steps; of equal errors the wider range wins
    errors = [_group_errors(places * (1 / shrink), zero, spec, importance) * shrink**2 for shrink in shrinks]
    return scale * shrinks[np.argmin(errors, axis=0)], zero


def reach(zero: Values, spec: Spec) -> tuple[Values, Values]:
    """How many steps the grid's ends lie from zero: the least and the greatest code, less the zero point."""
    return spec.qmin - zero, spec.qmax - zero


def steps_from_zero(
    values: Values, scale: Values, least: Values, greatest: Values, out: Values | None = None
) -> Values:
    """How many steps the grid points nearest to values lie from zero, code less zero point; `reach` gives the bounds.

    In the values' dtype; all broadcast against values. With `out`, which may be `values`, no new memory is needed.
    """
    steps = np.divide(values, scale, out=out)
    np.rint(steps, out=steps)
    # Two calls are quicker than NumPy's clip
    np.maximum(steps, least, out=steps)
    return np.minimum(steps, greatest, out=steps)


def rounded(w: Matrix, scale: Scales, zero: Scales, spec: Spec) -> Matrix:
    """The values on the grid nearest to w."""
    scale = scale[..., None]
    values = steps_from_zero(w.reshape(*zero.shape, -1), scale, *reach(zero[..., None], spec))
    values *= scale
    return values.reshape(w.shape)


def _extremes(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """The least and the greatest value of each group, zero included, so that zero stays exact."""
    columns = w.shape[1]
    # Three times as quick as NumPy's min and max along groups of 64
    starts = np.arange(0, columns, columns // spec.groups(columns))
    least, greatest = (ends.reduceat(w, starts, axis=1) for ends in (np.minimum, np.maximum))
    return np.minimum(least, 0), np.maximum(greatest, 0)


def _group_errors(
    places: Float32[np.ndarray, "rows groups size"],
    zero: Scales,
    spec: Spec,
    importance: Float32[np.ndarray, "columns"] | None,
) -> Scales:
    """The squared errors of rounding, in steps; `places`, how many steps each value lies from zero, are used up."""
    if not spec.symmetric:
        places += zero[..., None]
    error = np.rint(places)
    np.clip(error, spec.qmin, spec.qmax, out=error)
    error -= places
    np.square(error, out=error)
    if importance is None:
        return error.sum(axis=-1)
    # One product for each group: as quick as the sum alone
    return (error.swapaxes(0, 1) @ importance.reshape(*error.shape[1:], 1))[..., 0].T
