"""The arithmetic of quantization grids: nothing else in ditq rounds or clips to a grid.

A matrix (rows, columns) is cut along its columns into groups; each group has a scale s and, on an asymmetric grid, a
zero point z: code = clip(round(w / s) + z), value = s (code - z). Scales are steps, never maxima.
"""

from typing import TypeVar

import mlx.core as mx
import numpy as np
from jaxtyping import Bool, Float, Integer

from ditq.core.spec import Spec

Array = TypeVar("Array", mx.array, np.ndarray)
Matrix = Float[mx.array, "rows columns"]
Codes = Integer[mx.array, "rows columns"]
Bools = Bool[mx.array, "rows columns"]
Scales = Float[mx.array, "rows groups"]


def minmax_range(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """Scales and zero points of the least grid that holds every value; float32, zero points whole numbers."""
    low, high = _extremes(w, spec)
    return _grid(low, high, spec)


def mse_range(
    w: Matrix,
    spec: Spec,
    candidates: int = 80,
    least: float = 0.2,
    importance: Float[mx.array, "columns"] | None = None,
) -> tuple[Scales, Scales]:
    """Scales and zero points that minimise each group's squared error over `candidates` shrunken min-max ranges.

    The shrink factors run evenly from 1 down to `least`; the full range is among them, so that the result is never
    worse than `minmax_range`. `importance` weighs the columns' squared errors: the mean squares of a layer's inputs
    make it the error of its output, were the inputs independent.
    """
    low, high = _extremes(w, spec)
    best_scale, best_zero = _grid(low, high, spec)
    best_error = _group_errors(w, best_scale, best_zero, spec, importance)
    for shrink in np.linspace(1.0, least, candidates)[1:]:
        scale, zero = _grid(low * float(shrink), high * float(shrink), spec)
        error = _group_errors(w, scale, zero, spec, importance)
        better = error < best_error
        best_scale, best_zero = mx.where(better, scale, best_scale), mx.where(better, zero, best_zero)
        best_error = mx.minimum(error, best_error)
        mx.eval(best_scale, best_zero, best_error)
    return best_scale, best_zero


def code_dtype(spec: Spec) -> mx.Dtype:
    """The dtype of codes, one byte each: int8 on a symmetric grid, else uint8."""
    return mx.int8 if spec.symmetric else mx.uint8


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
    # The same, without the wrappers that cost more than the work on a single column
    return np.minimum(np.maximum(np.rint(values / scale) + zero, spec.qmin), spec.qmax)


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


def _extremes(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """The least and the greatest value of each group, zero included, so that zero stays exact."""
    rows, columns = w.shape
    grouped = w.astype(mx.float32).reshape(rows, spec.groups(columns), -1)
    return mx.minimum(grouped.min(axis=-1), 0), mx.maximum(grouped.max(axis=-1), 0)


def _grid(low: Scales, high: Scales, spec: Spec) -> tuple[Scales, Scales]:
    if spec.symmetric:
        # Negative codes reach one step further than positive ones.
        scale = mx.maximum(low / spec.qmin, high / spec.qmax)
        zero = mx.zeros_like(scale)
    else:
        scale = (high - low) / spec.qmax
        zero = mx.round(-low / mx.where(scale > 0, scale, 1.0))
    return mx.where(scale > 0, scale, 1.0), zero


def _group_errors(
    w: Matrix, scale: Scales, zero: Scales, spec: Spec, importance: Float[mx.array, "columns"] | None
) -> Scales:
    error = mx.square(dequantize(quantize(w, scale, zero, spec), scale, zero) - w.astype(mx.float32))
    return _grouped(error if importance is None else error * importance, scale).sum(axis=-1)


def _grouped(w: Matrix, scale: Scales) -> Float[mx.array, "rows groups group"]:
    return w.reshape(*scale.shape, -1)
