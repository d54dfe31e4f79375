"""Post-training quantization of a model's weights, block by block: the one driver of all methods.

For each block, in order: what it receives in the float model, what it receives now that the blocks before it are
quantized, and what it should return; a method decides on the codes; what the quantized block returns is what the next
one receives. So every block makes up for the errors before it, and nothing but one block is ever optimised at a time.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.calibration import BlockCache
from ditq.calibration.block_cache import Streams, run_block
from ditq.checkpoint.npz_run.block_file import block_file, read_block, write_block
from ditq.core import plan
from ditq.core.quantized import QuantizedWeight
from ditq.weights import BlockProblem, BlockResult, Method
from ditq.weights.block_error import quantized_output
from ditq.weights.input_grids import inputs_of_result
from ditq.weights.quantized_block import batches, take_rows

BLOCK = "multimodal_transformer_blocks.{}"
CURVE = 200
"""Points of a loss curve that are kept."""

OnBlock = Callable[[int, dict[str, Any]], None]
"""Told the number of a finished block and its report."""
OnIteration = Callable[[int, int, float], None]
"""Told the block, the iteration (or, layer by layer, the layer) that is over, and its loss."""
ProblemOf = Callable[[int, Streams, Streams, Streams], BlockProblem]
"""The problem of a block, from its number, its inputs in the float and in the quantized model, and its targets."""


@dataclass(frozen=True)
class BlocksRun:
    """What became of the blocks."""

    weights: dict[str, QuantizedWeight]
    reports: list[dict[str, Any]]
    handed_on: Streams
    """What leaves the last block that was run, in the quantized model."""


def through_blocks(
    cache: BlockCache,
    methods: Mapping[int, Method],
    problem_of: ProblemOf,
    folder: Path,
    count: int,
    first: Streams | None = None,
    on_iteration: OnIteration = lambda block, iteration, loss: None,
    on_block: OnBlock = lambda block, report: None,
) -> BlocksRun:
    """Runs the first `count` blocks and quantizes those that have a method, each into its file in `folder`.

    A block's file is written when its method is done, whole or not at all; one that is there is read in place of a new
    run. `first` is what enters the first block in the quantized model, if that differs from the float one's.
    """
    inputs = cache.streams(0)
    quantized = inputs if first is None else first
    weights: dict[str, QuantizedWeight] = {}
    reports: list[dict[str, Any]] = []
    for number in range(count):
        targets = cache.streams(number + 1)
        problem, result = problem_of(number, inputs, quantized, targets), None
        if number in methods:
            result = _solved(problem, methods[number], folder, number, on_iteration)
            weights |= result.weights
            reports.append({"block": number, "path": problem.path, **result.report})
            on_block(number, reports[-1])
        quantized = _handed_on(problem, result)
        inputs = targets
    return BlocksRun(weights, reports, quantized)


def cache_digest(cache: BlockCache) -> str:
    """What stands for the calibration data of a run."""
    return plan.digest(repr(sorted(cache.meta.items())), cache.pooled.tobytes())


def _solved(
    problem: BlockProblem, method: Method, folder: Path, number: int, on_iteration: OnIteration
) -> BlockResult:
    """The block's result: of an earlier run's file, or made now and written."""
    if block_file(folder, number).exists():
        weights, activations, meta = read_block(folder, number)
        return BlockResult(weights, activations or None, {**meta["report"], "seconds": None})
    started = time.perf_counter()
    result = method.quantize(problem, partial(on_iteration, number))
    report = {**result.report, "losses": thinned(result.report.get("losses", []))}
    write_block(folder, number, result.weights, result.activations or {}, {"report": report})
    return BlockResult(
        result.weights, result.activations, {**report, "seconds": round(time.perf_counter() - started, 2)}
    )


def _handed_on(problem: BlockProblem, result: BlockResult | None) -> Streams:
    """What the block, quantized as in `result` or float, makes of its quantized inputs."""
    parts = []
    for rows in batches(np.arange(problem.rows)):
        if result is None:
            modulation = problem.modulation[mx.array(rows)]
            streams = run_block(problem.block, take_rows(problem.quantized_inputs, rows), modulation)
        else:
            streams = quantized_output(problem, result.weights, inputs_of_result(problem, result), rows)
        mx.eval(streams.image, streams.text)
        parts.append(streams)
    return Streams(*(mx.concatenate([getattr(part, name) for part in parts]) for name in ("image", "text")))


def thinned(losses: Sequence[float]) -> list[float]:
    """A curve of at most `CURVE` points, each the mean of a stretch."""
    pieces = np.array_split(np.asarray(losses, np.float64), min(CURVE, len(losses))) if losses else []
    return [float(f"{piece.mean():.6g}") for piece in pieces]
