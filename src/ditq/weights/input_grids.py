"""The grids that layers' inputs stand on while a block is quantized: learned static ones, or those of a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Int

from ditq.capture import traced
from ditq.core import affine
from ditq.core.activation_grid import PARTS, GridRows, TimestepGrid
from ditq.core.spec import Spec
from ditq.models.state import run_block, take_rows
from ditq.weights.problem import NO_BITS, BlockProblem, BlockResult
from ditq.weights.quantized_block import InputGrid

BatchRows = Int[mx.array, "batch"]
"""The numbers of the calibration samples in a batch."""
Scalar = Float[mx.array, ""]
StaticGrid = tuple[Scalar, Scalar]
"""Step and centre: what AdaRound trains."""
SAMPLE = 1 << 15
"""Values of an input that the search for its range looks at, besides the extremes of every batch."""
SHRINKS = np.linspace(1.0, 0.2, 41)
CENTRED_PAYS = 0.9
"""A grid gets a centre of its own where that brings its squared error below this part of the symmetric grid's."""
ANY_TIMESTEP = np.array([500.0], np.float32)
"""Where the one row of a static grid stands; it is the nearest row to every timestep."""


@runtime_checkable
class InputGrids(Protocol):
    """What the layers of a block do to their inputs."""

    def of(self, paths: Iterable[str], rows: BatchRows) -> dict[str, InputGrid]:
        """The layers' grids for a batch of these calibration samples; a layer that keeps its input has none.

        Layers that share their input share their grid where it is the same, so that the input is rounded once.
        """
        ...


@dataclass(frozen=True)
class StaticInputs:
    """One grid of `bits` bits around a centre per input, for all timesteps; none where `grids` is empty."""

    bits: int
    grids: Mapping[str, StaticGrid]
    """By input name."""
    names: Mapping[str, str]
    """The name of each layer's input, by path."""

    def of(self, paths: Iterable[str], rows: BatchRows) -> dict[str, InputGrid]:
        """The same for all rows."""
        if not self.grids:
            return {}
        spec = Spec(self.bits)
        made = {name: InputGrid(*grid, spec.qmin, spec.qmax) for name, grid in self.grids.items()}
        return {path: made[self.names[path]] for path in paths}


@dataclass(frozen=True, eq=False)
class SampleGrid:
    """A given grid of one input, at the timestep of each calibration sample."""

    rows: GridRows
    smooth: Float[mx.array, "channels"] | None
    pixels: bool = False
    """Whether it is a convolution's input."""

    def of(self, rows: BatchRows) -> InputGrid:
        """The grid in a batch."""
        return InputGrid.at(self.rows, rows, self.smooth, self.pixels)

    def equals(self, other: "SampleGrid") -> bool:
        """Whether all numbers are the same."""
        pairs = [(self.smooth, other.smooth)]
        pairs += [(getattr(self.rows, name), getattr(other.rows, name)) for name in PARTS]
        return self.pixels == other.pixels and all(
            one is two if one is None or two is None else np.array_equal(np.array(one), np.array(two))
            for one, two in pairs
        )


@dataclass(frozen=True)
class TableInputs:
    """Given grids: each row of a batch stands on the grid of its own timestep."""

    grids: Mapping[str, SampleGrid]
    """By layer path; one and the same object for layers that share their input and its grid."""

    def of(self, paths: Iterable[str], rows: BatchRows) -> dict[str, InputGrid]:
        """Those of the layers that have one."""
        wanted = {path: self.grids[path] for path in paths if path in self.grids}
        made = {id(grid): grid.of(rows) for grid in wanted.values()}
        return {path: made[id(grid)] for path, grid in wanted.items()}


def inputs_of(problem: BlockProblem) -> InputGrids:
    """The grids of the problem's table, or MSE-optimal static ones, or none."""
    if problem.table is not None:
        return _given(problem)
    names = {path: problem.input(path) for path in problem.specs}
    if problem.activation_bits >= NO_BITS:
        return StaticInputs(problem.activation_bits, {}, names)
    spec = Spec(problem.activation_bits)
    grids = {name: mse_grid(x, spec) for name, x in sampled_inputs(problem).items()}
    return StaticInputs(spec.bits, grids, names)


def inputs_of_result(problem: BlockProblem, result: BlockResult) -> InputGrids:
    """The grids that a result was made for: the table's, its own static ones, or none."""
    if problem.table is not None or not result.activations:
        return inputs_of(replace(problem, activation_bits=NO_BITS))
    names = {path: problem.input(path) for path in result.activations}
    grids = {names[path]: _numbers(grid.rows) for path, grid in result.activations.items()}
    return StaticInputs(problem.activation_bits, grids, names)


def static_grids(inputs: InputGrids, paths: Iterable[str]) -> dict[str, TimestepGrid] | None:
    """Each layer's static input grid, of one row; None where the grids are not static."""
    if not isinstance(inputs, StaticInputs) or not inputs.grids:
        return None
    spec = Spec(inputs.bits)
    qmin, qmax = (mx.array([float(end)]) for end in (spec.qmin, spec.qmax))
    made = {}
    for name, grid in inputs.grids.items():
        scale, shift = (float(np.array(number)) for number in grid)
        centre = mx.array([[shift]]) if shift else None
        made[name] = TimestepGrid(ANY_TIMESTEP, GridRows(mx.array([scale]), qmin, qmax, centre))
    return {path: made[inputs.names[path]] for path in paths}


def sampled_inputs(problem: BlockProblem) -> dict[str, Float[mx.array, "values"]]:
    """Some values of every input, its extremes among them, as the float block makes them of its quantized inputs."""
    kept: dict[str, list[mx.array]] = {}
    seen_at = {problem.input(path): problem.inside(path) for path in problem.specs}
    names = {inside: name for name, inside in seen_at.items()}
    batches = list(problem.batches(np.arange(problem.rows)))

    def observe(inside: str, x: Float[mx.array, "*rows channels"]) -> None:
        flat = x.astype(mx.float32).reshape(-1)
        ends = mx.stack([flat.min(), flat.max()])
        spread = flat[:: max(1, flat.size * len(batches) // SAMPLE) | 1]  # an odd stride visits every channel
        kept.setdefault(names[inside], []).append(mx.concatenate([spread, ends]))
        mx.eval(kept[names[inside]][-1])

    with traced(problem.block, list(names), observe):
        for rows in batches:
            run_block(problem.block, take_rows(problem.quantized_inputs, rows))
    return {name: mx.concatenate(values) for name, values in kept.items()}


def mse_grid(x: Float[mx.array, "values"], spec: Spec) -> StaticGrid:
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


def _given(problem: BlockProblem) -> TableInputs:
    """The table's grids at the problem's timesteps."""
    assert problem.table is not None
    found: dict[str, SampleGrid] = {}
    last: dict[str, SampleGrid] = {}
    for path in problem.specs:
        grid = problem.table.get(path)
        if grid is None:
            continue
        pixels = isinstance(problem.layer(path), nn.Conv2d)
        own, name = SampleGrid(grid.at(problem.timesteps), grid.smooth, pixels), problem.input(path)
        if name not in last or not last[name].equals(own):
            last[name] = own
        found[path] = last[name]
    return TableInputs(found)


def _numbers(rows: GridRows) -> StaticGrid:
    """Step and centre of a grid of one row."""
    return rows.scale[0], mx.array(0.0) if rows.shift is None else rows.shift[0, 0]
