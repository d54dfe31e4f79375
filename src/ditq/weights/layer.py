"""One layer solved: the damping chosen, its columns rounded one by one, and judged against plain rounding."""

import time
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights.damping import Damped, best, rungs
from ditq.weights.hessian import Moments
from ditq.weights.outputs import Layer, LayerMethod, Outputs, Weight

SAMPLED_OUTPUTS = 128
"""Outputs on which the damping is chosen: every output is a problem of its own, and all share H."""
OUTPUTS = 2048
"""Outputs that are solved at once: their arrays, so many rows of the weight, lie in memory at the same time."""


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
    layer = Layer(weight, moments, spec, method, key)
    (factor, lam, notes), unit, ladder = _damped(layer)
    parts: list[tuple[np.ndarray, ...]] = []
    power = rounding = squared = 0.0
    for start in range(0, len(weight), OUTPUTS):
        outputs = Outputs(layer, slice(start, start + OUTPUTS))
        codes, error = (outputs.rounded, outputs.rounding) if factor is None else outputs.solved(factor)
        parts.append((outputs.scale, outputs.zero, outputs.rounded, codes))
        power, rounding, squared = power + outputs.power, rounding + outputs.rounding, squared + error
    scale, zero, rounded, codes = (np.concatenate(part) for part in zip(*parts, strict=True))
    # Written so that NaN is refused as well
    if not squared <= rounding:
        codes, squared = rounded, rounding
        notes = [*notes, "rounding: no worse on the rows that judge"]
    solved = QuantizedWeight(mx.array(codes), mx.array(scale), mx.array(zero), spec)
    size = power if power > 0 else 1.0
    return solved, LayerReport(
        name,
        type(method).__name__,
        error_rounding=float(np.sqrt(rounding / size)),
        error=float(np.sqrt(squared / size)),
        damping=lam / unit,
        condition=1.0 if factor is None else factor.condition,
        rows=moments.rows,
        judged_rows=len(layer.inputs),
        ladder=ladder,
        dead_columns=layer.dead,
        fallback=notes,
        seconds=time.perf_counter() - started,
    )


def _damped(layer: Layer) -> tuple[Damped, float, list[tuple[float, float]]]:
    """The factor of H with the damping that some of the outputs like best, its unit, and all that was tried."""
    if layer.dead == len(layer.order):
        return (None, 0.0, ["rounding: all inputs are zero"]), 1.0, []
    hessian = layer.moments.hessian
    hessian.put_in_order(layer.order)
    unit = layer.method.unit(hessian.whole())
    sample = Outputs(layer, slice(None, None, max(1, len(layer.weight) // SAMPLED_OUTPUTS)))

    def error(amount: float) -> float:
        factor, *_ = hessian.at(amount * unit)
        return np.inf if factor is None else float(np.sqrt(sample.solved(factor)[1] / (sample.power or 1.0)))

    amount, judged = best(rungs(layer.method.damping), error)
    factor, lam, notes = hessian.at(amount * unit)
    if factor is None:
        lam, notes = 0.0, [*notes, "rounding: H cannot be factored"]
    return (factor, lam, notes), unit, [(rung, found) for rung, found in judged if np.isfinite(found)]
