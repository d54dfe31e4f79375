"""What a quantized block hands on to the next one: computed some rows at a time, and kept on disk.

The files have no names and lie in the run's folder: they take the disk's space while the run needs them, and are gone
with it, however it ends.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.core.files.rows import SpooledRows
from ditq.models.state import BlockState, SomeRows, run_block, take_rows
from ditq.weights import BlockProblem, BlockResult
from ditq.weights.block_error import quantized_output
from ditq.weights.input_grids import inputs_of_result


class OnDisk:
    """Rows of a spooled array."""

    def __init__(self, spool: SpooledRows):
        self._spool = spool

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self._spool.shape

    def rows(self, rows: SomeRows) -> mx.array:
        """Some of its rows."""
        made = np.empty((len(rows), *self._spool.row), self._spool.dtype)
        for at, row in enumerate(rows.tolist()):
            made[at] = self._spool.read(row, 1)[0]
        return mx.array(made)


def spooled(parts: Iterable[Mapping[str, mx.array]], folder: Path) -> dict[str, OnDisk]:
    """The rows of all parts, one below the other; one part at a time is in memory."""
    made: dict[str, SpooledRows] = {}
    for part in parts:
        for name, array in part.items():
            rows = np.array(array)
            if name not in made:
                made[name] = SpooledRows(folder, rows.shape[1:], rows.dtype)
            made[name].add(rows)
    return {name: OnDisk(spool) for name, spool in made.items()}


def handed_on(problem: BlockProblem, result: BlockResult | None) -> Iterator[BlockState]:
    """What the block, quantized as in `result` or float, writes for its quantized inputs, of what is read later."""
    inputs = None if result is None else inputs_of_result(problem, result)
    for rows in problem.batches(np.arange(problem.rows)):
        if result is None or inputs is None:
            block: Any = problem.block
            outputs = run_block(block, take_rows(problem.quantized_inputs, rows))
        else:
            outputs = quantized_output(problem, result.weights, inputs, rows)
        outputs = {name: outputs[name] for name in problem.targets}
        mx.eval(outputs)
        yield outputs
