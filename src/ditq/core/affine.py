"""The arithmetic of quantization grids: nothing else in ditq rounds or clips to a grid.

A matrix (rows, columns) is cut along its columns into groups; each group has a scale s and, on an asymmetric grid, a
zero point z: code = clip(round(w / s) + z), value = s (code - z). Scales are steps, never maxima.
"""

from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from jaxtyping import Bool, Float, Integer

from ditq.core.spec import Spec

Array = TypeVar("Array", mx.array, np.ndarray)
Matrix = Float[mx.array, "rows columns"]
Codes = Integer[mx.array, "rows columns"]
Bools = Bool[mx.array, "rows columns"]
Scales = Float[mx.array, "rows groups"]


def minmax_range(w: Array, spec: Spec) -> tuple[Array, Array]:
    """Scales and zero points (rows, groups) of the least grid that holds every value of w (rows, columns); float32.

    Zero points are whole numbers. MLX or NumPy.
    """
    low, high = _extremes(w.astype(_library(w).float32), spec)
    return _grid(low, high, spec)


def mse_range(
    w: Array,
    spec: Spec,
    candidates: int = 80,
    least: float = 0.2,
    importance: Array | None = None,
) -> tuple[Array, Array]:
    """Scales and zero points that minimise each group's squared error over `candidates` shrunken min-max ranges.

    The shrink factors run evenly from 1 down to `least`; the full range is among them, so that the result is never
    worse than `minmax_range`. `importance` (columns) weighs the columns' squared errors: the mean squares of a layer's
    inputs make it the error of its output, were the inputs independent. MLX or NumPy.
    """
    library = _library(w)
    w = w.astype(library.float32)
    low, high = _extremes(w, spec)
    best: tuple[Array, Array] = _grid(low, high, spec)
    least_error = _group_errors(w, *best, spec, importance)
    for shrink in np.linspace(1.0, least, candidates)[1:]:
        scale, zero = _grid(low * float(shrink), high * float(shrink), spec)
        error = _group_errors(w, scale, zero, spec, importance)
        better = error < least_error
        best = library.where(better, scale, best[0]), library.where(better, zero, best[1])
        least_error = library.minimum(error, least_error)
        if library is mx:
            mx.eval(*best, least_error)
    return best


def code_dtype(spec: Spec, library: Any = mx) -> Any:
    """The dtype of codes, one byte each: int8 on a symmetric grid, else uint8; MLX's or NumPy's."""
    return library.int8 if spec.symmetric else library.uint8


def quantize(w: Matrix, scale: Scales, zero: Scales, spec: Spec) -> Codes:
    """The codes nearest to w, in `code_dtype`; halves round to even."""
    grouped = _grouped(w.astype(mx.float32), scale)
    return nearest(grouped, scale[..., None], zero[..., None], spec).reshape(w.shape).astype(code_dtype(spec))


def nearest(values: Array, scale: Array, zero: Array, spec: Spec) -> Array:
    """The codes nearest to values, as whole numbers in the values' dtype; MLX or NumPy, scale and zero broadcast.

    What solvers that round one column at a time call: NumPy's arrays may be float64.
    """
    if isinstance(values, mx.array):
        return mx.clip(mx.round(values / scale) + zero, spec.qmin, spec.qmax)
    codes = np.rint(values / scale)
    codes += zero
    return codes.clip(spec.qmin, spec.qmax)


def dequantize(codes: Codes | Matrix, scale: Scales, zero: Scales) -> Matrix:
    """The values of codes, float32."""
    grouped = _grouped(codes.astype(mx.float32), scale)
    return ((grouped - zero[..., None]) * scale[..., None]).reshape(codes.shape)


def round_to_nearest(w: Matrix, spec: Spec, search: bool = False) -> tuple[Codes, Scales, Scales]:
    """Codes, scales and zero points of plain rounding, in the min-max range or the MSE-optimal one."""
    scale, zero = mse_range(w, spec) if search else minmax_range(w, spec)
    return quantize(w, scale, zero, spec), scale, zero


def straight_through_round(x: Float[mx.array, "..."]) -> Float[mx.array, "..."]:
    """round(x), with the gradient of x: MLX's own round has none (Bengio et al. 2013, arXiv 1308.3432)."""
    return x + mx.stop_gradient(mx.round(x) - x)


def fake_quant(
    x: Float[mx.array, "*rows channels"],
    scale: Float[mx.array, "..."],
    shift: Float[mx.array, "..."],
    spec: Spec,
) -> Float[mx.array, "*rows channels"]:
    """x on its activation grid: scale clip(round((x - shift) / scale)) + shift, in x's dtype, computed in float32.

    `scale` and `shift` broadcast against x: scalars, or one per channel. The gradient passes straight through the
    rounding, is 0 outside the grid, and reaches scale and shift too, as learned step size quantization wants it
    (LSQ, Esser et al. 2020, arXiv 1902.08153).
    """
    return fake_quant_within(x, scale, shift, spec.qmin, spec.qmax)


def fake_quant_within(
    x: Float[mx.array, "*rows channels"],
    scale: Float[mx.array, "..."],
    shift: Float[mx.array, "..."],
    qmin: float | Float[mx.array, "..."],
    qmax: float | Float[mx.array, "..."],
) -> Float[mx.array, "*rows channels"]:
    """`fake_quant` between bounds that may be arrays: rows of a batch whose grids have different bits."""
    codes = (x.astype(mx.float32) - shift) / scale
    on_grid = straight_through_round(mx.clip(codes, qmin, qmax))
    return (on_grid * scale + shift).astype(x.dtype)


def bracket(w: Matrix, scale: Scales, zero: Scales, spec: Spec) -> tuple[Matrix, Bools, Matrix]:
    """The code below each weight, whether the next one up is on the grid as well, and the part of the way towards it.

    below + part is the weight's exact place between its two codes; where there is but one, at the ends of a grid that
    does not hold every weight, part is 0.
    """
    codes = (_grouped(w.astype(mx.float32), scale) / scale[..., None] + zero[..., None]).reshape(w.shape)
    floor = mx.floor(codes)
    below = mx.clip(floor, spec.qmin, spec.qmax)
    free = (floor >= spec.qmin) & (floor < spec.qmax)
    return below, free, mx.where(free, codes - floor, 0.0)


def between(below: Matrix, free: Bools, part: Matrix, scale: Scales, zero: Scales) -> Matrix:
    """The values at `part` of the way from the codes below to those above, linear in the part."""
    return dequantize(below + mx.where(free, part, 0.0), scale, zero)


def encode(
    x: Float[mx.array, "*rows channels"],
    inverse: Float[mx.array, "..."],
    offset: Float[mx.array, "..."],
    qmin: Float[mx.array, ""],
    qmax: Float[mx.array, ""],
) -> Float[mx.array, "*rows channels"]:
    """The activation codes clip(round(x * inverse - offset), qmin, qmax): whole numbers in float32.

    Rounded in float32 whatever x's dtype is: in float16 one code in a hundred would be another.
    """
    return mx.clip(mx.round(x.astype(mx.float32) * inverse - offset), qmin, qmax)


def _library(values: mx.array | np.ndarray) -> Any:
    return mx if isinstance(values, mx.array) else np


def _extremes(w: Array, spec: Spec) -> tuple[Array, Array]:
    """The least and the greatest value of each group, zero included, so that zero stays exact."""
    library, (rows, columns) = _library(w), w.shape
    grouped = w.reshape(rows, spec.groups(columns), -1)
    return library.minimum(grouped.min(axis=-1), 0), library.maximum(grouped.max(axis=-1), 0)


def _grid(low: Array, high: Array, spec: Spec) -> tuple[Array, Array]:
    library = _library(low)
    if spec.symmetric:
        # Negative codes reach one step further than positive ones.
        scale = library.maximum(low / spec.qmin, high / spec.qmax)
        zero = library.zeros_like(scale)
    else:
        scale = (high - low) / spec.qmax
        zero = library.round(-low / library.where(scale > 0, scale, 1.0))
    return library.where(scale > 0, scale, 1.0), zero


def _group_errors(w: Array, scale: Array, zero: Array, spec: Spec, importance: Array | None) -> Array:
    grouped, scale, zero = _grouped(w, scale), scale[..., None], zero[..., None]
    error = _library(w).square((nearest(grouped, scale, zero, spec) - zero) * scale - grouped)
    if importance is None:
        return error.sum(axis=-1)
    # One product for each group: as quick as the sum alone
    return (error.swapaxes(0, 1) @ importance.reshape(*grouped.shape[1:], 1))[..., 0].T


def _grouped(w: Array, scale: Array) -> Array:
    return w.reshape(*scale.shape, -1)
