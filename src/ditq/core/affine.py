"""The arithmetic of quantization grids: nothing but this and its NumPy twin rounds or clips to a grid.

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
FINE, COARSE = 2.0**-16, 2.0**15
"""The scales that float16 holds to a 500th or better, as a checkpoint has them: the others are left as they are."""


def minmax_range(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """Scales and zero points of the least grid that holds every value of w, float32; zero points are whole numbers.

    Scales are `storable`, so that the greatest value may lie a two-thousandth beyond the last code.
    """
    return weight_grid(*_extremes(w.astype(mx.float32), spec), spec)


def mse_range(
    w: Matrix,
    spec: Spec,
    candidates: int = 80,
    least: float = 0.2,
) -> tuple[Scales, Scales]:
    """Scales and zero points that minimise each group's squared error over `candidates` shrunken min-max ranges.

    The shrink factors run evenly from 1 down to `least`; the full range is among them, so that the result is never
    worse than `minmax_range`.
    """
    w = w.astype(mx.float32)
    low, high = _extremes(w, spec)
    best = weight_grid(low, high, spec)
    least_error = _group_errors(w, *best, spec)
    for shrink in np.linspace(1.0, least, candidates)[1:]:
        scale, zero = weight_grid(low * float(shrink), high * float(shrink), spec)
        error = _group_errors(w, scale, zero, spec)
        better = error < least_error
        best = mx.where(better, scale, best[0]), mx.where(better, zero, best[1])
        least_error = mx.minimum(error, least_error)
        mx.eval(*best, least_error)
    return best


def grid_between(low: Array, high: Array, spec: Spec) -> tuple[Array, Array]:
    """Scales and zero points of the grid from low to high, which zero lies between; MLX or NumPy."""
    library: Any = mx if isinstance(low, mx.array) else np
    # Negative codes reach one step further than positive ones.
    step = library.maximum(low / spec.qmin, high / spec.qmax) if spec.symmetric else (high - low) / spec.qmax
    scale = library.where(step > 0, step, 1.0)
    return scale, library.zeros_like(scale) if spec.symmetric else library.round(-low / scale)


def weight_grid(low: Array, high: Array, spec: Spec) -> tuple[Array, Array]:
    """The same with `storable` scales, to which the zero points belong."""
    library: Any = mx if isinstance(low, mx.array) else np
    scale = storable(grid_between(low, high, spec)[0])
    return scale, library.zeros_like(scale) if spec.symmetric else library.round(-low / scale)


def storable(scale: Array) -> Array:
    """Scales rounded to what float16 holds, in their own dtype, so that codes are found for the scales that are stored;
    those that float16 holds badly, below `FINE` or above `COARSE`, stay as they are. MLX or NumPy.
    """
    library: Any = mx if isinstance(scale, mx.array) else np
    within = library.clip(scale, FINE, COARSE)
    return library.where(within == scale, within.astype(library.float16).astype(scale.dtype), scale)


def code_dtype(spec: Spec, library: Any = mx) -> Any:
    """The dtype of codes, one byte each: int8 on a symmetric grid, else uint8; MLX's or NumPy's."""
    return library.int8 if spec.symmetric else library.uint8


def quantize(w: Matrix, scale: Scales, zero: Scales, spec: Spec) -> Codes:
    """The codes nearest to w, in `code_dtype`; halves round to even."""
    grouped = _grouped(w.astype(mx.float32), scale)
    return nearest(grouped, scale[..., None], zero[..., None], spec).reshape(w.shape).astype(code_dtype(spec))


def nearest(
    values: Float[mx.array, "..."], scale: Float[mx.array, "..."], zero: Float[mx.array, "..."], spec: Spec
) -> Float[mx.array, "..."]:
    """The codes nearest to values, as whole numbers in the values' dtype; scale and zero broadcast."""
    return mx.clip(mx.round(values / scale) + zero, spec.qmin, spec.qmax)


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
    below: Float[mx.array, "..."] | None = None,
) -> Float[mx.array, "*rows channels"]:
    """`fake_quant` between bounds that may be arrays: rows of a batch whose grids have different bits.

    `below` is the step below zero as a part of the step above it.
    """
    codes = (x.astype(mx.float32) - shift) / scale
    if below is None:
        on_grid = straight_through_round(mx.clip(codes, qmin, qmax))
    else:
        part = mx.where(codes < 0, below, 1.0)
        on_grid = straight_through_round(mx.clip(codes / part, qmin, qmax)) * part
    return (on_grid * scale + shift).astype(x.dtype)


def places(w: Matrix, scale: Scales, zero: Scales) -> Matrix:
    """Where the weights stand on their grid: codes before they are rounded and clipped, float32."""
    return (_grouped(w.astype(mx.float32), scale) / scale[..., None] + zero[..., None]).reshape(w.shape)


def widest_step(
    x: Float[mx.array, "*rows channels"], qmax: float | Float[mx.array, "..."], axes: tuple[int, ...] = (-1,)
) -> Float[mx.array, "*ones"]:
    """The step with which `qmax` is the greatest |x| over `axes`, which are kept; 1 where all of x is zero."""
    step = mx.abs(x.astype(mx.float32)).max(axis=axes, keepdims=True) / qmax
    return mx.where(step > 0, step, 1.0)


def bracket(w: Matrix, scale: Scales, zero: Scales, spec: Spec) -> tuple[Matrix, Bools, Matrix]:
    """The code below each weight, whether the next one up is on the grid as well, and the part of the way towards it.

    below + part is the weight's exact place between its two codes; where there is but one, at the ends of a grid that
    does not hold every weight, part is 0.
    """
    codes = places(w, scale, zero)
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


def encode_halves(
    x: Float[mx.array, "*rows channels"],
    inverse: Float[mx.array, "..."],
    below: Float[mx.array, "..."],
    qmin: Float[mx.array, ""],
    qmax: Float[mx.array, ""],
) -> Float[mx.array, "*rows channels"]:
    """The codes of x on two half-lines, in steps of the positive one: negative codes times `below`, a power of two.

    So one product with the weights computes both halves, and every term of it is exact.
    """
    values = x.astype(mx.float32) * inverse
    part = mx.where(values < 0, below, 1.0)
    return mx.clip(mx.round(values / part), qmin, qmax) * part


def _extremes(w: Matrix, spec: Spec) -> tuple[Scales, Scales]:
    """The least and the greatest value of each group, zero included, so that zero stays exact."""
    rows, columns = w.shape
    grouped = w.reshape(rows, spec.groups(columns), -1)
    return mx.minimum(grouped.min(axis=-1), 0), mx.maximum(grouped.max(axis=-1), 0)


def _group_errors(w: Matrix, scale: Scales, zero: Scales, spec: Spec) -> Scales:
    grouped, scale, zero = _grouped(w, scale), scale[..., None], zero[..., None]
    return mx.square((nearest(grouped, scale, zero, spec) - zero) * scale - grouped).sum(axis=-1)


def _grouped(w: Matrix, scale: Scales) -> Float[mx.array, "rows groups size"]:
    return w.reshape(*scale.shape, -1)
