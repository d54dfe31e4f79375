"""A quantized block, computed, and how far it is from its float self."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int64

from ditq.calibration.block_cache import Streams
from ditq.core.quantized import QuantizedWeight
from ditq.weights.input_grids import InputGrids
from ditq.weights.problem import BlockProblem
from ditq.weights.quantized_block import GridLayer, batches, run_on_grids, take_rows

HELD_OUT = 8
"""One row in so many is held out."""
ENOUGH = 32
"""Rows from which on some are held out."""
Rows = Int64[np.ndarray, "some"]


def held_out_rows(rows: int, seed: int) -> tuple[Int64[np.ndarray, "used"], Int64[np.ndarray, "judged"]]:
    """The rows to optimise on, and those to judge by; few rows serve for both."""
    if rows < ENOUGH:
        return np.arange(rows), np.arange(rows)
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[rows // HELD_OUT :]), np.sort(order[: rows // HELD_OUT])


def quantized_output(
    problem: BlockProblem, weights: Mapping[str, QuantizedWeight], inputs: InputGrids, rows: Rows
) -> Streams:
    """What the quantized block returns for its quantized inputs at these rows, float32; not evaluated."""
    at = mx.array(rows)
    grids = inputs.of(weights, at)
    layers = {
        problem.inside(path): GridLayer(weight.values(), problem.bias(path), grids.get(path))
        for path, weight in weights.items()
    }
    return run_on_grids(
        problem.block, layers, take_rows(problem.quantized_inputs, rows), problem.modulation[at]
    )


def read_streams(problem: BlockProblem) -> tuple[str, ...]:
    """The streams whose output something reads: the last block's text has no reader."""
    return ("image",) if problem.block.text_transformer_block.ends_at_attention else ("image", "text")


def stream_powers(problem: BlockProblem) -> dict[str, float]:
    """The mean square of the float block's output, for each stream that is read."""
    sums = dict.fromkeys(read_streams(problem), 0.0)
    for rows in batches(np.arange(problem.rows)):
        targets = take_rows(problem.targets, rows)
        for stream in sums:
            sums[stream] += float(np.array(mx.square(getattr(targets, stream)).mean())) * len(rows)
    return {stream: max(total / problem.rows, 1e-30) for stream, total in sums.items()}


def squared_error(output: Streams, target: Streams, powers: Mapping[str, float]) -> Float[mx.array, ""]:
    """The mean over the streams of: mean squared difference by mean square."""
    errors = [
        mx.square(getattr(output, stream) - getattr(target, stream)).mean() / power
        for stream, power in powers.items()
    ]
    return mx.stack(errors).mean()


def block_error(
    problem: BlockProblem,
    weights: Mapping[str, QuantizedWeight],
    inputs: InputGrids,
    rows: Rows,
    powers: Mapping[str, float],
) -> float:
    """`squared_error` of the quantized block on its quantized inputs against the float block on the float ones."""
    total = 0.0
    for some in batches(rows):
        output = quantized_output(problem, weights, inputs, some)
        error = squared_error(output, take_rows(problem.targets, some), powers)
        total += float(np.array(error)) * len(some)
    return total / len(rows)
