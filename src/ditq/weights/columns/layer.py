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
from ditq.weights.columns.few_rows import Verdict, all_rows, cross_validated
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.outputs import (
    KEPT,
    SAMPLED_OUTPUTS,
    Layer,
    LayerMethod,
    Outputs,
    Weight,
    power,
    solved_in_parts,
)

SAMPLED_COLUMNS = 768
"""Columns on which GPTQ's is chosen: the best damping for every second column is about the best for all, and a factor
costs the third power of the columns."""


@dataclass(frozen=True)
class LayerReport:
    """How a layer fared. Errors are |X W' - X~ Q'| / |X W'| on the held-out rows, Frobenius norms.

    Of fewer rows than `held_out.FEW` each is left out once, and errors are those of cross-validation.
    """

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
    """Those that the errors are of: held out of H, or, of few rows, all of them."""
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
    rows, or where rows are so few that cross-validation does not speak for the solver.

    `moments` are finished; `key` is the layer's name among the weights that they were made with. The damping is chosen
    on some of the outputs, then all are solved with it. Raises UserError for a weight that is not finite.
    """
    started = time.perf_counter()
    if not np.isfinite(weight).all():
        raise UserError(f"{name}: weight", got="values that are not finite", expected="numbers")
    spec.groups(weight.shape[1], name)
    few = moments.few()
    if few is None:
        layer, verdict = Layer(weight, moments, spec, method, key), None
    else:
        layer = Layer(weight, all_rows(moments, few), spec, method, key)
        verdict = cross_validated(weight, moments, few, spec, method)
    (factor, lam, notes), unit, ladder = _damped(layer, verdict)
    scale, zero = mx.array(layer.scale), mx.array(layer.zero)
    found = None if factor is None else solved_in_parts(layer, factor)
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
        verdict = None
    solved = QuantizedWeight(codes, scale, zero, spec)
    size = power(layer.target) or 1.0
    judged = verdict is not None and verdict.damping is not None  # by cross-validation
    return solved, LayerReport(
        name,
        type(method).__name__,
        error_rounding=verdict.rounding if verdict and judged else float(np.sqrt(layer.rounding / size)),
        error=verdict.error if verdict and judged else float(np.sqrt(squared / size)),
        damping=lam / (unit or 1.0),
        condition=1.0 if factor is None else factor.condition,
        rows=layer.moments.rows,
        judged_rows=len(layer.inputs),
        ladder=ladder,
        dead_columns=layer.dead,
        fallback=notes,
        seconds=time.perf_counter() - started,
    )


def _damped(layer: Layer, verdict: Verdict | None) -> tuple[Damped, float, list[tuple[float, float]]]:
    """The factor of H with the best damping, the damping's unit, and all that were tried with their errors.

    `verdict` is cross-validation's, which has chosen the damping; None: the held-out rows choose it.
    """
    if layer.dead == len(layer.order):
        return (None, 0.0, [f"{KEPT}: all inputs are zero"]), 1.0, []
    if verdict is not None and verdict.damping is None:
        return (None, 0.0, [verdict.note or KEPT]), 1.0, verdict.ladder
    hessian, ladder = layer.moments.hessian, rungs(layer.method.damping)
    hessian.put_in_order(layer.order)
    unit = layer.method.unit(hessian.whole())
    if verdict is not None and verdict.damping is not None:
        amount, judged = verdict.damping, verdict.ladder
    else:
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
