"""What would end in NaN is told before anything is computed: values of a problem, and a cache of another block."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np

from ditq import capture
from ditq.core.errors import UserError
from ditq.models.state import Stream, run_block, take_rows
from ditq.weights.problem import BlockProblem

APART = 0.1
"""How far, relative, the block's outputs may lie from the cached ones: far above what float16 on disk and bfloat16 in
the network make of them, far below what another block does."""
REMEDY = (
    "compute and store the activations in float32 or bfloat16, or make the block cache again with --force"
)


def check_problem(problem: BlockProblem) -> None:
    """Raises UserError for a problem that no method can solve.

    The layer is named for weights that are not finite, the array and its first such row for inputs and targets. Where
    the float block does not make the cached targets of the cached inputs, they are another block's.
    """
    for path in problem.specs:
        check_layer(problem.layer(path), path)
    for what, arrays in (
        ("inputs", problem.inputs),
        ("quantized inputs", problem.quantized_inputs),
        ("cached outputs", problem.targets),
    ):
        _check_rows(problem, arrays, f"{problem.path}: {what}")
    _check_block(problem)


def check_layer(layer: capture.Layer, path: str) -> None:
    """Raises UserError, naming the layer, for weights or biases that are not finite, or whose squares are not."""
    for name in ("weight", "bias"):
        if name in layer and not _sound(layer[name].astype(mx.float32)):
            bad = int(np.array((~mx.isfinite(layer[name])).sum()))
            got = f"{bad:,} values that are not finite" if bad else "values whose squares overflow float32"
            raise UserError(f"{path}: {name}", got=got, expected="finite numbers")


def finite(error: float, where: str, what: str, remedy: str = REMEDY) -> float:
    """`error` itself. Raises UserError when it is not finite."""
    if not np.isfinite(error):
        raise UserError(where, got=f"{what} of {error}", expected="a finite number", remedy=remedy)
    return error


def _check_rows(problem: BlockProblem, arrays: Mapping[str, Stream], where: str) -> None:
    found = (
        (name, array, rows)
        for name in arrays
        for rows in problem.batches(np.arange(problem.rows))
        for array in take_rows({name: arrays[name]}, rows).values()
    )
    for name, array, rows in found:
        if _sound(array):
            continue
        squares = mx.square(array).reshape(len(array), -1).sum(axis=1)
        row = int(np.argmin(np.isfinite(np.array(squares))))
        bad = int(np.array((~mx.isfinite(array[row])).sum()))
        got = f"{bad:,} values that are not finite" if bad else "values whose squares overflow float32"
        what = f"{where} {name!r}, row {rows[row]}"
        raise UserError(what, got=got, expected="finite numbers", remedy=REMEDY)


def _sound(array: mx.array) -> bool:
    """Whether all values and the sum of their squares are finite."""
    return bool(np.array(mx.isfinite(mx.square(array).sum())))


def _check_block(problem: BlockProblem) -> None:
    rows = np.unique([0, problem.rows - 1])
    block = problem.block if problem.float_block is None else problem.float_block
    made, wanted = run_block(block, take_rows(problem.inputs, rows)), take_rows(problem.targets, rows)
    for name, target in wanted.items():
        apart = mx.linalg.norm(made[name] - target) / mx.maximum(mx.linalg.norm(target), 1e-30)
        found = float(np.array(apart))
        if not found <= APART:
            raise UserError(
                f"{problem.path}: cached outputs {name!r}",
                got=f"{found:.2g} times their size away from what the block makes of its cached inputs",
                expected=f"at most {APART}",
                remedy="the cache is another model's, or damaged: make it again, cache_adaround_data --force",
            )
