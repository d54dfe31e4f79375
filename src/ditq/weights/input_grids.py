"""The grids that layers' inputs stand on while a block is quantized: static ones, or given ones per timestep."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int, Int64

from ditq.activations import ActivationTable
from ditq.calibration.block_cache import run_block
from ditq.core import affine
from ditq.core.spec import Spec
from ditq.diagnostics.tracing import traced
from ditq.nn import ActivationGrid
from ditq.weights.problem import NO_BITS, BlockProblem, BlockResult
from ditq.weights.quantized_block import InputGrid, batches, take_rows

Rows = Int[mx.array, "batch"]
Scalar = Float[mx.array, ""]
SAMPLE = 1 << 15
"""Values of an input that the search for its range looks at, besides the extremes of every batch."""
SHRINKS = np.linspace(1.0, 0.2, 41)
CENTRED_PAYS = 0.9
"""A grid gets a centre of its own where that brings its squared error below this part of the symmetric grid's."""


@runtime_checkable
class InputGrids(Protocol):
    """What the layers of a block do to their inputs."""

    def of(self, paths: Iterable[str], rows: Rows) -> dict[str, InputGrid]:
        """The layers' grids for a batch of these calibration samples; a layer that keeps its input has none."""
        ...


def input_name(path: str) -> str:
    """The name of what the layer at `path` receives: q, k and v of an attention share one input."""
    stem, _, name = path.rpartition(".")
    return f"{stem}.qkv" if name in ("q_proj", "k_proj", "v_proj") else path


@dataclass(frozen=True)
class StaticInputs:
    """One grid of `bits` bits around a centre per input, for all timesteps."""

    bits: int
    grids: Mapping[str, tuple[Scalar, Scalar]]
    """Step and centre, by input name."""

    def of(self, paths: Iterable[str], rows: Rows) -> dict[str, InputGrid]:
        """The same for all rows; one and the same grid for layers that share their input."""
        if not self.grids:
            return {}
        spec = Spec(self.bits)
        made = {name: InputGrid(*grid, spec.qmin, spec.qmax) for name, grid in self.grids.items()}
        return {path: made[input_name(path)] for path in paths}


@dataclass(frozen=True)
class TimedInputs:
    """The grids of a table: each row of a batch stands on the grid of its own timestep."""

    table: ActivationTable
    steps: Int64[np.ndarray, "rows"]
    """The table's row for each calibration sample."""

    def of(self, paths: Iterable[str], rows: Rows) -> dict[str, InputGrid]:
        """Layers that share their input share its grid where the table's are the same."""
        steps = mx.array(self.steps)[rows]
        made: dict[str, tuple[ActivationGrid, InputGrid]] = {}
        found: dict[str, InputGrid] = {}
        for path in paths:
            grid = self.table.grids.get(path)
            if grid is None:
                continue
            before = made.get(input_name(path))
            if before is None or not _equal(before[0], grid):
                before = made[input_name(path)] = grid, _at_steps(grid, steps)
            found[path] = before[1]
        return found


def inputs_of(problem: BlockProblem) -> InputGrids:
    """The grids of the problem's table, or MSE-optimal static ones, or none."""
    if problem.table is not None:
        return TimedInputs(problem.table, problem.table.rows(problem.timesteps))
    if problem.activation_bits >= NO_BITS:
        return StaticInputs(problem.activation_bits, {})
    spec = Spec(problem.activation_bits)
    return StaticInputs(spec.bits, {name: mse_grid(x, spec) for name, x in sampled_inputs(problem).items()})


def inputs_of_result(problem: BlockProblem, result: BlockResult) -> InputGrids:
    """The grids that a result was made for: the table's, its own static ones, or none."""
    if problem.table is not None or not result.activations:
        return inputs_of(replace(problem, activation_bits=NO_BITS))
    grids = {
        input_name(path): (mx.array(scale), mx.array(shift))
        for path, (scale, shift) in result.activations.items()
    }
    return StaticInputs(problem.activation_bits, grids)


def static_grids(inputs: InputGrids, paths: Iterable[str]) -> dict[str, tuple[float, float]] | None:
    """Step and centre of each layer's input as numbers; None where the grids are not static."""
    if not isinstance(inputs, StaticInputs) or not inputs.grids:
        return None
    numbers = {
        name: (float(np.array(scale)), float(np.array(shift)))
        for name, (scale, shift) in inputs.grids.items()
    }
    return {path: numbers[input_name(path)] for path in paths}


def sampled_inputs(problem: BlockProblem) -> dict[str, Float[mx.array, "values"]]:
    """Some values of every input, its extremes among them, as the float block makes them of its quantized inputs."""
    kept: dict[str, list[mx.array]] = {}
    names = {input_name(path): problem.inside(path) for path in problem.specs}
    paths = {inside: name for name, inside in names.items()}
    parts = -(-problem.rows // 16)

    def observe(inside: str, x: Float[mx.array, "*rows channels"]) -> None:
        flat = x.astype(mx.float32).reshape(-1)
        ends = mx.stack([flat.min(), flat.max()])
        spread = flat[:: max(1, flat.size * parts // SAMPLE) | 1]  # an odd stride visits every channel
        kept.setdefault(paths[inside], []).append(mx.concatenate([spread, ends]))
        mx.eval(kept[paths[inside]][-1])

    with traced(problem.block, list(paths), observe):
        for rows in batches(np.arange(problem.rows), 16):
            streams = take_rows(problem.quantized_inputs, rows)
            mx.eval(run_block(problem.block, streams, problem.modulation[mx.array(rows)]))
    return {name: mx.concatenate(values) for name, values in kept.items()}


def mse_grid(x: Float[mx.array, "values"], spec: Spec) -> tuple[Scalar, Scalar]:
    """Step and centre of the grid with the least squared error, among shrunken ranges; the centre is 0 unless it pays.

    Both ends of an off-centre range are shrunk in turn, each on the grid of factors, the other held.
    """
    low, high = float(np.array(x.min())), float(np.array(x.max()))
    reach = max(-low, high, 1e-12)
    error, _, ends = min(_tried(x, -reach * s, reach * s, spec) for s in SHRINKS)
    off_error, _, off = _tried(x, low, max(high, low + 1e-12), spec)
    for _ in range(2):
        off_error, _, off = min(_tried(x, off[0], low + (high - low) * s, spec) for s in SHRINKS)
        off_error, _, off = min(_tried(x, high - (high - low) * s, off[1], spec) for s in SHRINKS)
    scale, shift = _grid(*(off if off_error < CENTRED_PAYS * error else ends), spec)
    return mx.array(scale), mx.array(shift)


def _tried(x: mx.array, low: float, high: float, spec: Spec) -> tuple[float, float, tuple[float, float]]:
    if high <= low:
        return float("inf"), low, (low, high)
    scale, shift = _grid(low, high, spec)
    error = mx.square(affine.fake_quant(x, mx.array(scale), mx.array(shift), spec) - x).mean()
    return float(np.array(error)), low, (low, high)


def _grid(low: float, high: float, spec: Spec) -> tuple[float, float]:
    """The step and the centre with which the codes reach from `low` to `high`; a symmetric range has centre 0."""
    if low == -high:
        return high / spec.qmax, 0.0
    scale = (high - low) / (spec.qmax - spec.qmin)
    return scale, low - spec.qmin * scale


def _at_steps(grid: ActivationGrid, steps: mx.array) -> InputGrid:
    scale, qmin, qmax = (values[steps][:, None, None] for values in (grid.scale, grid.qmin, grid.qmax))
    shift = mx.zeros_like(scale) if grid.shift is None else grid.shift[steps][:, None]
    return InputGrid(scale, shift, qmin, qmax, grid.smooth)


def _equal(one: ActivationGrid, other: ActivationGrid) -> bool:
    for name in ("scale", "qmin", "qmax", "shift", "smooth"):
        a, b = getattr(one, name), getattr(other, name)
        if (a is None) != (b is None) or (a is not None and not np.array_equal(np.array(a), np.array(b))):
            return False
    return True
