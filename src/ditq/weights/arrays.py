"""The solvers on plain arrays: for those who have a weight and its inputs, and nothing else of ditq."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer

from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights.columns.damping import Ladder
from ditq.weights.columns.gptq import GPTQ
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.layer import LayerReport, solve_layer
from ditq.weights.columns.qronos import Qronos

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
    bits: int = 4,
    group_size: int | None = None,
    method: str = "qronos",
    symmetric: bool = True,
    damping: Ladder | None = None,
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
    chosen = SOLVERS[method](act_order=act_order, search=search)
    chosen = chosen if damping is None else replace(chosen, damping=damping)
    plain = isinstance(W, np.ndarray)
    weight = np.asarray(W if plain else W.astype(mx.float32), dtype=np.float32)
    moments = Moments(weight.shape[1], name, {"": weight}, cross=chosen.corrects)
    moments.add(X, Xq)
    quantized, report = solve_layer(weight, moments.finish(), Spec(bits, symmetric, group_size), chosen, name)
    if not plain:
        return quantized, report
    codes, scales, zeros = (
        np.array(part, copy=False) for part in (quantized.codes, quantized.scale, quantized.zero)
    )
    return Solution(codes, scales, zeros), report
