"""A quantized block, computed, and how far it is from its float self."""

from collections.abc import Iterable, Mapping

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Int64

from ditq.core.quantized import QuantizedWeight
from ditq.models.state import BlockState, SomeRows, take_rows
from ditq.weights.input_grids import InputGrids
from ditq.weights.problem import BlockProblem
from ditq.weights.quantized_block import GridLayer, run_on_grids

HELD_OUT = 8
"""One picture in so many is held out."""
ENOUGH, SOME = 32, 4
"""Rows, and pictures, from which on some are held out."""


def held_out_rows(
    problem: BlockProblem,
) -> tuple[Int64[np.ndarray, "optimised"], Int64[np.ndarray, "held_out"]]:
    """The rows to optimise on, and those to judge the result by: all rows of every eighth picture, at least of one.

    Other timesteps of a picture that was optimised on would not reveal overfitting. The pictures are the same whatever
    the block, the method and the seed. Of fewer than `ENOUGH` rows or `SOME` pictures all rows serve for both.
    """
    return split_rows(np.arange(problem.rows) if problem.pictures is None else problem.pictures)


def split_rows(
    pictures: Int64[np.ndarray, "rows"],
) -> tuple[Int64[np.ndarray, "optimised"], Int64[np.ndarray, "held_out"]]:
    """The same for rows of these pictures."""
    rows, held_out = np.arange(len(pictures)), np.isin(pictures, held_out_pictures(pictures.tolist()))
    if len(rows) < ENOUGH or not held_out.any():
        return rows, rows
    return rows[~held_out], rows[held_out]


def held_out_pictures(pictures: Iterable[int]) -> list[int]:
    """Every eighth of these pictures, at least one; of fewer than `SOME` none."""
    distinct = list(dict.fromkeys(pictures))
    count = max(1, len(distinct) // HELD_OUT) if len(distinct) >= SOME else 0
    return [distinct[(i + 1) * len(distinct) // count - 1] for i in range(count)]


def quantized_output(
    problem: BlockProblem, weights: Mapping[str, QuantizedWeight], inputs: InputGrids, rows: SomeRows
) -> BlockState:
    """What the quantized block writes for its quantized inputs at these rows, float32; not evaluated."""
    grids = inputs.of(weights, mx.array(rows))
    layers = {
        problem.inside(path): GridLayer(weight.values(), problem.bias(path), grids.get(path))
        for path, weight in weights.items()
    }
    return run_on_grids(problem.block, layers, take_rows(problem.quantized_inputs, rows))


def stream_powers(problem: BlockProblem) -> dict[str, float]:
    """The mean square of each array of the targets."""
    sums = dict.fromkeys(problem.targets, 0.0)
    for rows in problem.batches(np.arange(problem.rows)):
        for name, target in take_rows(problem.targets, rows).items():
            sums[name] += float(np.array(mx.square(target).mean())) * len(rows)
    return {name: max(total / problem.rows, 1e-30) for name, total in sums.items()}


def squared_error(
    output: Mapping[str, mx.array], target: Mapping[str, mx.array], powers: Mapping[str, float]
) -> Float[mx.array, ""]:
    """The mean over the arrays named in `powers` of: mean squared difference by mean square."""
    errors = [mx.square(output[name] - target[name]).mean() / power for name, power in powers.items()]
    return mx.stack(errors).mean()


def block_error(
    problem: BlockProblem,
    weights: Mapping[str, QuantizedWeight],
    inputs: InputGrids,
    rows: SomeRows,
    powers: Mapping[str, float],
) -> float:
    """`squared_error` of the quantized block on its quantized inputs against the float block on the float ones."""
    total = 0.0
    for some in problem.batches(rows):
        output = quantized_output(problem, weights, inputs, some)
        error = squared_error(output, take_rows(problem.targets, some), powers)
        total += float(np.array(error)) * len(some)
    return total / len(rows)
