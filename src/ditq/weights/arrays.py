"""The solvers on plain arrays: for those who have a weight and its inputs, and nothing else of ditq."""

from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Integer

from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights.columns.damping import Ladder, rungs
from ditq.weights.columns.gptq import GPTQ
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.layer import LayerReport, solve_layer
from ditq.weights.columns.qronos import Qronos
from ditq.weights.scaling import divided, exponent_of

SOLVERS: dict[str, type[GPTQ] | type[Qronos]] = {"gptq": GPTQ, "qronos": Qronos}
"""The methods that solve a layer on its own, by name."""


@dataclass(frozen=True)
class Solution:
    """Codes, scales and zero points in NumPy: value = scales (codes - zeros), group by group."""

    codes: Integer[np.ndarray, "out in"]
    """int8 on a symmetric grid, else uint8."""
    scales: Float[np.ndarray, "out groups"]
    zeros: Float[np.ndarray, "out groups"]

    def values(self) -> Float[np.ndarray, "out in"]:
        """The quantized weight, float32."""
        grouped = self.codes.astype(np.float32).reshape(*self.scales.shape, -1)
        grouped -= self.zeros[..., None]
        grouped *= self.scales[..., None]
        return grouped.reshape(self.codes.shape)


def solve(
    W: Float[np.ndarray, "out in"] | Float[mx.array, "out in"],
    X: Float[np.ndarray, "*rows channels"] | Float[mx.array, "*rows channels"],
    Xq: Float[np.ndarray, "*same_rows channels"] | Float[mx.array, "*same_rows channels"] | None = None,
    bits: int | np.integer = 4,
    group_size: int | np.integer | None = None,
    method: str = "qronos",
    symmetric: bool = True,
    damping: Ladder | np.number | np.ndarray | None = None,
    act_order: bool = True,
    search: bool = True,
    name: str = "layer",
) -> tuple[Solution | QuantizedWeight, LayerReport]:
    """Codes, scales and zero points for a linear layer's weight, and a report; NumPy for NumPy, else a QuantizedWeight.

    X are the layer's inputs in the float model, Xq the inputs that it will receive in the quantized one (None: X), row
    by row. `method` is "gptq" or "qronos"; `damping` one amount, or several of which held-out rows choose (None: the
    method's own ladder); `search` takes the range with the least error, else min-max. Raises UserError, with the
    layer's `name`, for shapes that do not fit and values that are not finite.
    """
    if method not in SOLVERS:
        raise UserError("method", got=method, expected=f"one of {', '.join(SOLVERS)}")
    for switch, on in (("symmetric", symmetric), ("act_order", act_order), ("search", search)):
        if not isinstance(on, bool | np.bool_):
            raise UserError(switch, got=repr(on), expected="True or False")
    chosen = SOLVERS[method](act_order=act_order, search=search)
    chosen = chosen if damping is None else replace(chosen, damping=rungs(damping))
    spec = _spec(bits, symmetric, group_size)
    weight, x, xq = _numbers(W, f"{name}: weight"), _numbers(X, f"{name}: inputs"), None
    if weight.ndim != 2 or not weight.size:
        raise UserError(f"{name}: weight", got=f"shape {weight.shape}", expected="(out, in), none of them 0")
    if not np.isfinite(weight).all():
        raise UserError(f"{name}: weight", got="values that are not finite", expected="numbers")
    if Xq is not None:
        xq = _numbers(Xq, f"{name}: quantized inputs")
    for given, what in ((x, "inputs"), (xq, "quantized inputs")):
        if given is not None and given.ndim == 0:
            raise UserError(f"{name}: {what}", got="a single number", expected="rows of input channels")
    by, large = exponent_of(weight), exponent_of(x, xq)
    moments = Moments(weight.shape[1], name, {"": divided(weight, by)}, cross=chosen.corrects)
    moments.add(divided(x, large), None if xq is None else divided(xq, large))
    quantized, report = solve_layer(divided(weight, by), moments.finish(), spec, chosen, name)
    if by:
        quantized = _rescaled(quantized, by, name)
    if not isinstance(W, np.ndarray):
        return quantized, report
    codes, scales, zeros = (
        np.array(part, copy=False) for part in (quantized.codes, quantized.scale, quantized.zero)
    )
    return Solution(codes, scales, zeros), report


def _spec(bits: Any, symmetric: bool, group_size: Any) -> Spec:
    """The grid. Raises UserError for what is no whole number."""
    for what, value in (("bits", bits), ("group size", group_size)):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not whole and not (value is None and what == "group size"):
            raise UserError(what, got=repr(value), expected="a whole number")
    return Spec(int(bits), bool(symmetric), None if group_size is None else int(group_size))


def _numbers(given: Any, what: str) -> Float32[np.ndarray, "*shape"]:
    """The array in float32, no stride negative. Raises UserError for masked values and those that are not real."""
    if isinstance(given, mx.array):
        given = np.array(given.astype(mx.float32))
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        got = f"{np.ma.count_masked(given):,} masked values"
        raise UserError(
            what, got=got, expected="an array without any", remedy="fill them, or leave their rows out"
        )
    if not isinstance(given, np.ndarray) or given.dtype.kind not in "fiu":
        kind = given.dtype if isinstance(given, np.ndarray) else type(given).__name__
        raise UserError(what, got=f"{kind}", expected="a NumPy or MLX array of real numbers")
    with np.errstate(over="ignore"):  # what overflows is infinite, and refused as such
        numbers = np.asarray(given).astype(np.float32, copy=False)
    return numbers.copy() if min(numbers.strides, default=0) < 0 else numbers


def _rescaled(quantized: QuantizedWeight, exponent: int, name: str) -> QuantizedWeight:
    """Its scales times 2^exponent. Raises UserError where float32 has no room for these."""
    scale = np.ldexp(np.array(quantized.scale), exponent)
    if not (np.isfinite(scale) & (scale >= np.finfo(np.float32).tiny)).all():
        raise UserError(
            f"{name}: weight",
            got=f"values whose steps are {scale.min():.2g} to {scale.max():.2g}",
            expected="steps that float32 has normal numbers for",
            remedy="scale the weight",
        )
    return replace(quantized, scale=mx.array(scale))
