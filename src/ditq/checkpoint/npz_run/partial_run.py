"""The blocks that an adaround_optimize run has finished so far: what the next ones will receive comes through them."""

from pathlib import Path
from typing import TypedDict

import numpy as np

from ditq.checkpoint.checkpoint import ModelName, QuantizedCheckpoint
from ditq.checkpoint.npz_run.block_file import (
    StaticGrids,
    Weights,
    block_file,
    read_block,
    step_and_centre,
)
from ditq.checkpoint.npz_run.run import KIND, MADE_BY, VERSION, Bits, Blocks, static_table
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_stored_json
from ditq.core.schema import checked


class _Recipe(TypedDict):
    bits_a: Bits


class _Begun(TypedDict):
    model: ModelName
    quantized_blocks: Blocks
    recipe: _Recipe


def read_finished(folder: Path) -> tuple[QuantizedCheckpoint, dict[int, str]]:
    """A checkpoint of the finished blocks alone, and a digest of each by its number.

    The activation grids are those learned with the weights; None where there are none. Raises UserError for another
    kind of folder, and when no block is finished.
    """
    path = folder / "plan.json"
    begun = checked(read_stored_json(path, KIND, VERSION, MADE_BY), _Begun, str(path))
    bits = begun["recipe"]["bits_a"]
    weights: Weights = {}
    static: StaticGrids = {}
    digests = {}
    for number in begun["quantized_blocks"]:
        if block_file(folder, number).exists():
            layers, grids, _ = read_block(folder, number, bits if bits <= 8 else None)
            digests[number] = _digest(layers, grids)
            weights |= layers
            static |= grids
    if not weights:
        raise UserError(str(folder), got="no finished block", remedy="let adaround_optimize finish one first")
    meta = {"adaround": begun["recipe"]}
    return QuantizedCheckpoint(begun["model"], weights, static_table(static), meta), digests


def _digest(weights: Weights, static: StaticGrids) -> str:
    arrays = [
        np.array(part).tobytes()
        for weight in weights.values()
        for part in (weight.codes, weight.scale, weight.zero, weight.smooth)
        if part is not None
    ]
    numbers = {path: step_and_centre(path, grid) for path, grid in static.items()}
    return plan.digest(repr(list(weights)), repr(sorted(numbers.items())), *arrays)
