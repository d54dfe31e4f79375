"""GPTQ and Qronos on a block: each input's moments gathered as samples run through it, each layer solved on its own.

Parallel: one pass of the float model's inputs serves all layers of the block, as GPTQ is usually run. Sequential: layer
after layer in the order of execution, each from the inputs that it has when all before it are quantized.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.capture import Layer, patches, traced
from ditq.core import affine
from ditq.core.cost import Cost
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.models.state import SomeRows, run_block, take_rows
from ditq.weights.block_error import block_error, held_out_rows, stream_powers
from ditq.weights.checks import check_problem, finite
from ditq.weights.columns.gptq import GPTQ
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.layer import LayerReport, solve_layer
from ditq.weights.columns.outputs import LayerMethod
from ditq.weights.columns.qronos import Qronos
from ditq.weights.cost import LayerWork, Work
from ditq.weights.input_grids import InputGrids, inputs_of, static_grids
from ditq.weights.problem import BlockProblem, BlockResult, InputsUsed, OnIteration, silent
from ditq.weights.quantized_block import GridLayer, Quantize, run_on_grids

RUNGS = 4
"""Of the damping's ladder that are usually tried; each factors the Hessian."""
Weights = dict[str, QuantizedWeight]
Received = dict[str, Float[mx.array, "batch tokens columns"]]
"""What the matrix of the first layer of each group multiplies."""


class LayerByLayer:
    """What the layer solvers share besides the mathematics of a `LayerMethod`."""

    streams: ClassVar[InputsUsed]
    by_layer: ClassVar[bool] = True
    sequential: ClassVar[bool]
    """Whether layers are solved in the order of execution, each seeing those before it quantized."""
    passes: ClassVar[int]
    """Runs of a block over all rows, of both models and all stages."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids. `on_iteration` receives each solved layer's number and error."""
        assert isinstance(self, LayerMethod)
        order = problem.anatomy.stages(problem.specs) if self.sequential else [list(problem.specs)]
        return by_layers(problem, self, order, self.streams, on_iteration)

    def solve(
        self, weight: Float32[np.ndarray, "out columns"], moments: Moments | None, spec: Spec, path: str
    ) -> tuple[QuantizedWeight, dict[str, Any]]:
        """One matrix on its grid, and its report, from the finished moments of its input."""
        assert isinstance(self, LayerMethod) and moments is not None
        solved, report = solve_layer(weight, moments, spec, self, path, path)
        return solved, as_json(report)

    def cost(self, work: Work) -> Cost:
        """Passes through the block, sums of products of each input, and a factor of H for each rung that is tried."""
        flops = 0.0
        for group in work.by_input():
            columns, outputs = group[0].columns, sum(layer.out for layer in group)
            flops += work.rows * group[0].rows * columns**2 * (3 if self.streams == "both" else 1)
            flops += RUNGS * (columns**3 / 3 + columns**2 * 256) + 2 * columns**2 * outputs
        parts = work.by_stage() if self.sequential else [work]
        held = [sum(self._moments(group[0]) for group in part.by_input()) for part in parts]
        passes = work.passes(self.passes, quantized=self.streams != "float")
        return passes + work.search + Cost(flops=flops, memory=max(held, default=0.0))

    def _moments(self, layer: LayerWork) -> float:
        """Bytes of one input's moments; with both streams there is a second matrix."""
        return 4.0 * layer.columns**2 * (2 if self.streams == "both" else 1)


@dataclass(frozen=True)
class ParallelGPTQ(LayerByLayer, GPTQ):
    """GPTQ with the float model's inputs: nothing that is quantized before a layer enters its H."""

    streams: ClassVar[InputsUsed] = "float"
    sequential: ClassVar[bool] = False
    passes: ClassVar[int] = 1


@dataclass(frozen=True)
class SequentialGPTQ(LayerByLayer, GPTQ):
    """GPTQ whose H is that of the quantized model's inputs, layer after layer in the order of execution."""

    streams: ClassVar[InputsUsed] = "quantized"
    sequential: ClassVar[bool] = True
    passes: ClassVar[int] = 4


@dataclass(frozen=True)
class SequentialQronos(LayerByLayer, Qronos):
    """Qronos in the order of execution, from the inputs of both models."""

    streams: ClassVar[InputsUsed] = "both"
    sequential: ClassVar[bool] = True
    passes: ClassVar[int] = 8


def by_layers(
    problem: BlockProblem,
    method: LayerMethod,
    order: Sequence[Sequence[str]],
    streams: InputsUsed,
    on_iteration: OnIteration = silent,
) -> BlockResult:
    """Every layer of the problem solved by `method`, one part of `order` after the other.

    Each part is one pass over the rows of the float model's inputs, the quantized model's, or both; layers of the parts
    before it are on their grids in the quantized model. `on_iteration` receives each solved layer's number and error.
    Raises UserError as `check_problem` does, and for inputs of a layer that are not finite.
    """
    check_problem(problem)
    inputs, weights, reports = inputs_of(problem), Weights(), {}
    for paths in order:
        groups = problem.anatomy.shared_inputs(paths)
        own = {path: np.array(problem.weight(path)) for path in paths}
        moments = {
            group[0]: Moments(
                own[group[0]].shape[1],
                group[0],
                {path: own[path] for path in group} if method.corrects else None,
            )
            for group in groups
        }
        _gather(problem, inputs, weights, moments, streams)
        for group in groups:
            gathered = moments.pop(group[0]).finish()
            for path in group:
                solved, report = solve_layer(own[path], gathered, problem.specs[path], method, path, path)
                weights[path] = replace(solved, smooth=problem.smooth(path))
                reports[path] = as_json(report)
                on_iteration(len(weights), report.error)
    weights = {path: weights[path] for path in problem.specs}
    report = judged(problem, inputs, weights)
    return BlockResult(weights, static_grids(inputs, weights), {**report, "layers": reports})


def _gather(
    problem: BlockProblem,
    inputs: InputGrids,
    done: Weights,
    moments: dict[str, Moments],
    streams: InputsUsed,
) -> None:
    """Gives the moments of each input all rows of the streams; layers `done` are quantized in the quantized model."""
    for rows, held_out in parts_of(problem):
        x = quantized = Received()
        if streams != "quantized":
            x = float_inputs(problem, list(moments), rows)
        if streams != "float":
            quantized = quantized_inputs(problem, inputs, done, list(moments), rows)
        for first, gathered in moments.items():
            one, other = (x[first], quantized.get(first)) if x else (quantized[first], None)
            gathered.add(one, other, held_out)


def parts_of(problem: BlockProblem) -> Iterator[tuple[SomeRows, bool | None]]:
    """The calibration's rows in batches, and whether a batch is held out to judge the results.

    With few rows, where no picture is held out, some tokens of each are instead (None).
    """
    used, held_out = held_out_rows(problem)
    whole = len(used) == problem.rows
    for some in problem.batches(used):
        yield some, None if whole else False
    for some in problem.batches(held_out[:0] if whole else held_out):
        yield some, True


def as_json(report: LayerReport) -> dict[str, Any]:
    """The report as JSON, without its duration, so that a resumed run writes the same files."""
    return {key: value for key, value in asdict(report).items() if key != "seconds"}


def float_inputs(problem: BlockProblem, firsts: Sequence[str], rows: SomeRows) -> Received:
    """What these layers receive in the float model at some rows, divided by their smoothing factors; evaluated."""
    block = problem.block if problem.float_block is None else problem.float_block
    seen, own = Received(), {path: problem.layer(path) for path in firsts}
    paths = {problem.inside(path): path for path in firsts}

    def observe(inside: str, x: mx.array) -> None:
        path = paths[inside]
        smooth = problem.smooth(path)
        seen[path] = _multiplied(own[path], x if smooth is None else x / smooth)

    with traced(block, list(paths), observe):
        run_block(block, take_rows(problem.inputs, rows))
    mx.eval(seen)
    return seen


def quantized_inputs(
    problem: BlockProblem, inputs: InputGrids, done: Weights, firsts: Sequence[str], rows: SomeRows
) -> Received:
    """What these layers receive, on its grid, in the quantized model, whose layers `done` are quantized; evaluated."""
    seen, own = Received(), {path: problem.layer(path) for path in firsts}
    grids = inputs.of(problem.specs, mx.array(rows))

    def watched(path: str) -> Quantize:
        def call(x: mx.array) -> mx.array:
            x = grids[path](x) if path in grids else x
            seen[path] = _multiplied(own[path], x)
            return x

        return call

    layers = {
        path: GridLayer(weight.values(), problem.bias(path), grids.get(path)) for path, weight in done.items()
    }
    layers |= {path: GridLayer(problem.weight(path), problem.bias(path), watched(path)) for path in firsts}
    inside = {problem.inside(path): layer for path, layer in layers.items()}
    run_on_grids(problem.block, inside, take_rows(problem.quantized_inputs, rows))
    mx.eval(seen)
    return seen


def _multiplied(
    layer: Layer, x: Float[mx.array, "batch *inner channels"]
) -> Float[mx.array, "batch tokens columns"]:
    """What the layer's matrix multiplies when the layer receives x: x itself, or the patches of a convolution."""
    rows = patches(layer, x)
    return rows.reshape(len(rows), -1, rows.shape[-1])


def judged(problem: BlockProblem, inputs: InputGrids, weights: Weights) -> dict[str, Any]:
    """The block's error with plain rounding on the same scales, and with these weights, on the held-out rows."""
    rounded = {
        path: replace(
            weight, codes=affine.quantize(problem.weight(path), weight.scale, weight.zero, weight.spec)
        )
        for path, weight in weights.items()
    }
    _, rows = held_out_rows(problem)
    powers = stream_powers(problem)
    before, after = (
        finite(block_error(problem, own, inputs, rows, powers), problem.path, "a block error")
        for own in (rounded, weights)
    )
    return {"error_rounding": before, "error": after, "kept_rounding": False, "losses": []}
