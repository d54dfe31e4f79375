"""Ranges and rounding to a grid in NumPy, for solvers on the CPU: `affine`'s arithmetic in place and in few passes.

A solver puts millions of weights on their grid between two products; what these passes take is a good part of a wide
layer's time. Matrices are meant to be a few rows of a weight, so that they stay in the cache.
"""

import numpy as np
from jaxtyping import Float, Float32

from ditq.core.affine import storable, weight_grid
from ditq.core.spec import Spec

Values = Float[np.ndarray, "..."]
Matrix = Float32[np.ndarray, "rows columns"]
Scales = Float32[np.ndarray, "rows groups"]
Shrinks = Float32[np.ndarray, "candidates"]
Importance = Float32[np.ndarray, "columns"]
SHRINKS = np.linspace(1.0, 0.2, 17, dtype=np.float32)
"""Parts of the min-max range that are worth a try."""
POWER = 2.5
"""Of the errors that a range is chosen by: above 2, so that a clipped weight counts for more than many rounded ones,
whose errors a solver can spread. Near TaQ-DiT's 2.4 for activations; 2.5 takes no more than a root."""
ENOUGH = 1.04
"""The error of a few of them, over that of all."""


def minmax_range(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """Scales and zero points of the least grid that holds every value of w: `affine.minmax_range` in NumPy."""
    return weight_grid(*_extremes(w, spec), spec)


def searched_range(
    w: Matrix, spec: Spec, shrinks: Shrinks, importance: Importance | None = None
) -> tuple[Scales, Scales]:
    """Scales and zero points with the least sum of |error|^`POWER` in each group: min-max ranges times these factors.

    `importance` weighs the columns' errors: the mean squares of a layer's inputs. Of equal errors the earlier factor's
    wins.
    """
    scale, zero = minmax_range(w, spec)
    if len(shrinks) == 1:
        return storable(scale * shrinks), zero
    best = np.argmin(_errors_of(shrinks, w, scale, zero, spec, importance), axis=0)
    return storable(scale * shrinks[best]), zero


def sufficient_shrinks(w: Matrix, spec: Spec, importance: Importance | None = None) -> Shrinks:
    """A few of `SHRINKS`, 1 first, whose error after `searched_range` is at most `ENOUGH` times that of all.

    w is a sample of a weight, whose search then tries what matters there. One factor is added after the other, always
    the one that lowers the error most.
    """
    scale, zero = minmax_range(w, spec)
    errors = _errors_of(SHRINKS, w, scale, zero, spec, importance) * scale.astype(np.float64) ** POWER
    errors = errors.reshape(len(SHRINKS), -1)
    found, chosen, enough = errors[0], [0], ENOUGH * errors.min(axis=0).sum()
    while found.sum() > enough:
        chosen.append(int(np.minimum(errors, found).sum(axis=1).argmin()))
        found = np.minimum(found, errors[chosen[-1]])
    return SHRINKS[chosen]


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
    groups = spec.groups(w.shape[1])
    values = w.reshape(len(w) * groups, -1).T
    if groups > 1:
        # NumPy takes three times as long along groups of 64
        values = values.copy(order="C")
    least, greatest = (ends(axis=0).reshape(-1, groups) for ends in (values.min, values.max))
    return np.minimum(least, 0), np.maximum(greatest, 0)


def _errors_of(
    shrinks: Shrinks, w: Matrix, scale: Scales, zero: Scales, spec: Spec, importance: Importance | None
) -> Float32[np.ndarray, "candidates rows groups"]:
    """Each group's error to the `POWER` in the range shrunken by each factor, in steps of the full one."""
    places = w.reshape(*scale.shape, -1) / scale[..., None]
    # A shrunken range keeps its zero point and has smaller steps
    return np.stack([_group_errors(places * (1 / f), zero, spec, importance) * f**POWER for f in shrinks])


def _group_errors(
    places: Float32[np.ndarray, "rows groups size"],
    zero: Scales,
    spec: Spec,
    importance: Importance | None,
) -> Scales:
    """The errors of rounding to the `POWER`, in steps; `places`, the values in steps from zero, are used up."""
    if not spec.symmetric:
        places += zero[..., None]
    error = np.rint(places)
    np.clip(error, spec.qmin, spec.qmax, out=error)
    error -= places
    np.abs(error, out=error)
    root = np.sqrt(error, out=places)
    np.square(error, out=error)
    error *= root
    if importance is None:
        return error.sum(axis=-1)
    # One product for each group: as quick as the sum alone
    return (error.swapaxes(0, 1) @ importance.reshape(*error.shape[1:], 1))[..., 0].T
