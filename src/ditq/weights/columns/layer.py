"""One layer solved: the damping chosen, its columns rounded one by one, and judged against plain rounding."""

import time
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights.columns.damping import Damped, DampedHessian, best, rungs
from ditq.weights.columns.factor import Factor
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.outputs import Codes, Layer, LayerMethod, Outputs, Weight, power

SAMPLED_OUTPUTS = 256
"""Outputs on which the damping is chosen: every output is a problem of its own, and all share H."""
SAMPLED_COLUMNS = 768
"""Columns on which GPTQ's is chosen: the best damping for every second column is about the best for all, and a factor
costs the third power of the columns."""
OUTPUTS = 3072
"""Outputs that are solved at once: their arrays, so many rows of the weight, lie in memory at the same time."""
KEPT = "kept round-to-nearest"
"""How a note begins where the solver's codes are not used."""


@dataclass(frozen=True)
class LayerReport:
    """How a layer fared. Errors are |X W' - X~ Q'| / |X W'| on the held-out rows, Frobenius norms."""

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
    """The dampings that were tried and their errors, on some of the outputs and, for GPTQ, of the columns."""
    dead_columns: int = 0
    fallback: list[str] = field(default_factory=list)
    """Notes on any rescue: float64, a raised damping, round-to-nearest kept."""
    seconds: float = 0.0


def solve_layer(
    weight: Weight, moments: Moments, spec: Spec, method: LayerMethod, name: str = "layer", key: str = ""
) -> tuple[QuantizedWeight, LayerReport]:
    """A weight on its grid by GPTQ or Qronos, and how it fared; round-to-nearest where that is no worse on the held-out
    rows.

    `moments` are finished; `key` is the layer's name among the weights that they were made with. The damping is chosen
    on some of the outputs, then all are solved with it. Raises UserError for a weight that is not finite.
    """
    started = time.perf_counter()
    if not np.isfinite(weight).all():
        raise UserError(f"{name}: weight", got="values that are not finite", expected="numbers")
    spec.groups(weight.shape[1], name)
    layer = Layer(weight, moments, spec, method, key)
    (factor, lam, notes), unit, ladder = _damped(layer)
    scale, zero = mx.array(layer.scale), mx.array(layer.zero)
    found = None if factor is None else _in_parts(layer, factor)
    # Written so that NaN is refused as well
    if found is not None and found[1] <= layer.rounding:
        codes, squared = mx.array(found[0]), found[1]
    else:
        codes, squared = affine.quantize(mx.array(weight), scale, zero, spec), layer.rounding
        notes = (
            notes
            if found is None
            else [*notes, f"{KEPT}: {method.title} did not beat it on the held-out rows"]
        )
    solved = QuantizedWeight(codes, scale, zero, spec)
    size = power(layer.target) or 1.0
    return solved, LayerReport(
        name,
        type(method).__name__,
        error_rounding=float(np.sqrt(layer.rounding / size)),
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


def _in_parts(layer: Layer, factor: Factor) -> tuple[Codes, float]:
    """All codes, `OUTPUTS` outputs after the other, and their error."""
    starts = range(0, len(layer.weight), OUTPUTS)
    parts = [Outputs(layer, slice(start, start + OUTPUTS)).solved(factor) for start in starts]
    return np.concatenate([codes for codes, _ in parts]), sum(error for _, error in parts)


def _damped(layer: Layer) -> tuple[Damped, float, list[tuple[float, float]]]:
    """The factor of H with the best damping, the damping's unit, and all that were tried with their errors."""
    if layer.dead == len(layer.order):
        return (None, 0.0, [f"{KEPT}: all inputs are zero"]), 1.0, []
    hessian, ladder = layer.moments.hessian, rungs(layer.method.damping)
    hessian.put_in_order(layer.order)
    unit = layer.method.unit(hessian.whole())
    amount, judged = (ladder[0], []) if len(ladder) == 1 else _chosen(layer, ladder)
    factor, lam, notes = hessian.at(amount * unit)
    if factor is None:
        lam, notes = 0.0, [*notes, f"{KEPT}: H cannot be factored"]
    return (factor, lam, notes), unit, [(rung, found) for rung, found in judged if np.isfinite(found)]


def _chosen(layer: Layer, ladder: tuple[float, ...]) -> tuple[float, list[tuple[float, float]]]:
    """The damping with the least error on some of the outputs, and those that were tried with their errors."""
    hessian, method = layer.moments.hessian, layer.method
    step = 1 if method.corrects else max(1, len(layer.order) // SAMPLED_COLUMNS)
    trial = Outputs(layer, slice(None, None, max(1, len(layer.weight) // SAMPLED_OUTPUTS)), step)
    if step > 1:
        hessian = DampedHessian(hessian.whole()[::step, ::step].copy())
    unit = method.unit(hessian.whole())

    def error(amount: float) -> float:
        factor, *_ = hessian.at(amount * unit)
        return np.inf if factor is None else trial.error(factor)

    return best(ladder, error)
