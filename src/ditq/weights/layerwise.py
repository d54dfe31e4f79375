"""GPTQ and Qronos on a block: each input's moments gathered from the streams, each layer solved on its own.

Parallel: one pass of the float stream serves all layers of the block, as GPTQ is usually run. Sequential: layer after
layer in the order of execution, each from the inputs that it has when all before it are quantized.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int64

from ditq.calibration.block_cache import run_block
from ditq.core import affine
from ditq.core.errors import DitqError
from ditq.core.quantized import QuantizedWeight
from ditq.diagnostics.tracing import traced
from ditq.weights.block_error import ENOUGH, HELD_OUT, block_error, held_out_rows, stream_powers
from ditq.weights.columns.gptq import GPTQ
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.layer import LayerReport, solve_layer
from ditq.weights.columns.outputs import LayerMethod
from ditq.weights.columns.qronos import Qronos
from ditq.weights.input_grids import InputGrids, input_name, inputs_of, static_grids
from ditq.weights.problem import BlockProblem, BlockResult, OnIteration, silent
from ditq.weights.quantized_block import GridLayer, Quantize, batches, run_on_grids, take_rows

STAGES = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("fc1",), ("fc2",))
"""The layers of a block in the order of execution; those of one stage do not see each other."""
JUDGING_TOKENS = 1024
"""Held-out tokens that judge a layer, over all held-out rows."""
Weights = dict[str, QuantizedWeight]
Rows = Int64[np.ndarray, "batch"]
Captured = dict[str, Float[mx.array, "batch tokens channels"]]
"""What the first layer of each group receives."""


@dataclass(frozen=True)
class ParallelGPTQ(GPTQ):
    """GPTQ with the float stream's inputs: nothing that is quantized before a layer enters its H."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        return by_layers(problem, self, [list(problem.specs)], True, False, on_iteration)


@dataclass(frozen=True)
class SequentialGPTQ(GPTQ):
    """GPTQ whose H is that of the quantized model's inputs, layer after layer in the order of execution."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        return by_layers(problem, self, stages(problem.specs), False, True, on_iteration)


@dataclass(frozen=True)
class SequentialQronos(Qronos):
    """Qronos in the order of execution, from both streams."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        return by_layers(problem, self, stages(problem.specs), True, True, on_iteration)


def by_layers(
    problem: BlockProblem,
    method: LayerMethod,
    order: Sequence[Sequence[str]],
    floats: bool,
    quantized: bool,
    on_iteration: OnIteration = silent,
) -> BlockResult:
    """Every layer of the problem solved by `method`, one part of `order` after the other.

    Each part is one pass over the rows, through the float stream, the quantized one, or both; layers of the parts
    before it are on their grids in the quantized one. `on_iteration` is told each solved layer and its error.
    """
    inputs, weights, reports = inputs_of(problem), Weights(), {}
    for paths in order:
        groups = shared_inputs(paths)
        own = {path: np.array(problem.weight(path)) for path in paths}
        moments = {
            group[0]: Moments(
                own[group[0]].shape[1],
                group[0],
                {path: own[path] for path in group} if method.corrects else None,
            )
            for group in groups
        }
        for rows, judges in parts_of(problem.rows):
            x = float_inputs(problem, list(moments), rows) if floats else {}
            xq = quantized_inputs(problem, inputs, weights, list(moments), rows) if quantized else {}
            for first, gathered in moments.items():
                one, other = (x[first], xq.get(first)) if floats else (xq[first], None)
                if judges:
                    one, other = (
                        _some(one, problem.rows),
                        None if other is None else _some(other, problem.rows),
                    )
                gathered.add(one, other, judges)
        for group in groups:
            gathered = moments.pop(group[0]).finish()
            for path in group:
                solved, report = solve_layer(own[path], gathered, problem.specs[path], method, path, path)
                weights[path] = replace(solved, smooth=problem.smooth(path))
                reports[path] = told(report)
                on_iteration(len(weights), report.error)
    weights = {path: weights[path] for path in problem.specs}
    report = judged(problem, inputs, weights)
    return BlockResult(weights, static_grids(inputs, weights), {**report, "layers": reports})


def parts_of(rows: int) -> Iterator[tuple[Rows, bool | None]]:
    """The calibration's rows in batches, and whether a batch is held out to judge the results.

    The last eighth judges: rows come picture by picture, and tokens of a picture that H has seen would call an overfit
    good. Of few rows some tokens judge (None).
    """
    last = rows - rows // HELD_OUT if rows >= ENOUGH else rows
    for some in batches(np.arange(last)):
        yield some, None if last == rows else False
    for some in batches(np.arange(last, rows)):
        yield some, True


def _some(x: mx.array, rows: int) -> mx.array:
    """Tokens of a batch that judges, so many that all together stay below `JUDGING_TOKENS`."""
    tokens = x.shape[1] * (rows // HELD_OUT)
    return x[:, :: max(1, -(-tokens // JUDGING_TOKENS))]


def told(report: LayerReport) -> dict[str, Any]:
    """The report as JSON, without the time that it took: a resumed run writes the same files."""
    return {key: value for key, value in asdict(report).items() if key != "seconds"}


def stages(paths: Iterable[str]) -> list[list[str]]:
    """The layers of a block in the order of execution. Raises DitqError for a layer of another name."""
    found: list[list[str]] = [[] for _ in STAGES]
    for path in paths:
        name = path.rpartition(".")[2]
        at = [i for i, names in enumerate(STAGES) if name in names]
        if not at:
            raise DitqError(f"{path}: at no known place in a block")
        found[at[0]].append(path)
    return [stage for stage in found if stage]


def shared_inputs(paths: Iterable[str]) -> list[list[str]]:
    """The layers grouped by the input that they share."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(input_name(path), []).append(path)
    return list(groups.values())


def float_inputs(problem: BlockProblem, firsts: Sequence[str], rows: Rows) -> Captured:
    """What these layers receive in the float model at some rows, divided by their smoothing factors; evaluated."""
    block, modulation = problem.float_block, problem.float_modulation
    block = problem.block if block is None else block
    modulation = problem.modulation if modulation is None else modulation
    seen: Captured = {}
    paths = {problem.inside(path): path for path in firsts}

    def observe(inside: str, x: mx.array) -> None:
        smooth = problem.smooth(paths[inside])
        seen[paths[inside]] = x if smooth is None else x / smooth

    with traced(block, list(paths), observe):
        run_block(block, take_rows(problem.inputs, rows), modulation[mx.array(rows)].astype(mx.float32))
    mx.eval(seen)
    return seen


def quantized_inputs(
    problem: BlockProblem, inputs: InputGrids, done: Weights, firsts: Sequence[str], rows: Rows
) -> Captured:
    """What these layers receive, on its grid, in the quantized model, whose layers `done` are quantized; evaluated."""
    at, seen = mx.array(rows), Captured()
    grids = inputs.of(problem.specs, at)

    def watched(path: str) -> Quantize:
        def call(x: mx.array) -> mx.array:
            seen[path] = grids[path](x) if path in grids else x
            return seen[path]

        return call

    layers = {
        path: GridLayer(weight.values(), problem.bias(path), grids.get(path)) for path, weight in done.items()
    }
    layers |= {path: GridLayer(problem.weight(path), problem.bias(path), watched(path)) for path in firsts}
    inside = {problem.inside(path): layer for path, layer in layers.items()}
    run_on_grids(problem.block, inside, take_rows(problem.quantized_inputs, rows), problem.modulation[at])
    mx.eval(seen)
    return seen


def judged(problem: BlockProblem, inputs: InputGrids, weights: Weights) -> dict[str, Any]:
    """The block's error with plain rounding on the same scales, and with these weights, on some of the rows."""
    rounded = {
        path: replace(
            weight, codes=affine.quantize(problem.weight(path), weight.scale, weight.zero, weight.spec)
        )
        for path, weight in weights.items()
    }
    _, rows = held_out_rows(problem.rows, problem.seed)
    powers = stream_powers(problem)
    before, after = (block_error(problem, own, inputs, rows, powers) for own in (rounded, weights))
    return {"error_rounding": before, "error": after, "kept_rounding": False, "losses": []}
