"""The blocks that an adaround_optimize run has finished so far: what the next ones will receive comes through them."""

from pathlib import Path

import numpy as np

from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.npz_run.block_file import StaticGrids, block_file, read_block
from ditq.checkpoint.npz_run.run import KIND, VERSION, static_table
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.quantized import QuantizedWeight


def read_finished(folder: Path) -> tuple[QuantizedCheckpoint, dict[int, str]]:
    """A checkpoint of the finished blocks alone, and a digest of each by its number.

    The activation grids are those learned with the weights; None where there are none. Raises UserError for another
    kind of folder, and when no block is finished.
    """
    path = folder / "plan.json"
    begun = read_json(path)
    found = (begun.get("kind"), begun.get("version")) if isinstance(begun, dict) else (None, None)
    if found != (KIND, VERSION):
        raise UserError(
            str(path), got=f"kind {found[0]!r}, version {found[1]!r}", expected=f"{KIND!r}, version {VERSION}"
        )
    weights: dict[str, QuantizedWeight] = {}
    static: StaticGrids = {}
    digests = {}
    for number in begun["quantized_blocks"]:
        if block_file(folder, number).exists():
            layers, grids, _ = read_block(folder, number)
            digests[number] = _digest(layers, grids)
            weights |= layers
            static |= grids
    if not weights:
        raise UserError(str(folder), got="no finished block", remedy="let adaround_optimize finish one first")
    table = static_table({"bits_a": begun["recipe"]["bits_a"]}, weights, static) if static else None
    return QuantizedCheckpoint(begun["model"], weights, table, {"adaround": begun["recipe"]}), digests


def _digest(weights: dict[str, QuantizedWeight], static: StaticGrids) -> str:
    arrays = [
        np.array(part).tobytes()
        for weight in weights.values()
        for part in (weight.codes, weight.scale, weight.zero, weight.smooth)
        if part is not None
    ]
    return plan.digest(repr(list(weights)), repr(sorted(static.items())), *arrays)
