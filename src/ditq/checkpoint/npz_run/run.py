"""What adaround_optimize wrote, as a checkpoint: config.json, and weights/mm{N}.npz for every block."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.activations import ActivationTable
from ditq.activations.quant_config import read_quant_config
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import check_grid
from ditq.checkpoint.npz_run.block_file import block_file, read_block
from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import ActivationGrid

KIND, VERSION = "ditq.adaround", 1
MIDDLE = 500.0
"""The timestep of grids that hold at all timesteps; nothing depends on it."""


def read_adaround(folder: Path, quant_config: Path | None = None) -> QuantizedCheckpoint:
    """The quantized weights, with the activation grids of `quant_config`, or else the static ones learned with them.

    Raises UserError for another kind of folder, a run that is not finished, a block that is missing, and a
    `quant_config` whose smoothing is not that of the weights.
    """
    config = read_config(folder)
    weights: dict[str, QuantizedWeight] = {}
    static: dict[str, tuple[float, float]] = {}
    for number in config["quantized_blocks"]:
        if not block_file(folder, number).exists():
            raise UserError(
                str(block_file(folder, number)),
                got="no such file",
                expected=f"all {len(config['quantized_blocks'])} blocks that config.json names",
                remedy="copy it again, or make it: adaround_optimize --resume",
            )
        layers, grids, _ = read_block(folder, number)
        weights |= layers
        static |= grids
    activations = static_table(config, weights, static) if static else None
    checkpoint = QuantizedCheckpoint(config["model"], weights, activations, {"adaround": config["recipe"]})
    return with_grids(checkpoint, quant_config)


def with_grids(checkpoint: QuantizedCheckpoint, quant_config: Path | None) -> QuantizedCheckpoint:
    """The checkpoint with the activation grids of a quant_config.json in place of its own; None leaves them."""
    if quant_config is None:
        return checkpoint
    table = read_quant_config(quant_config)
    for path, weight in checkpoint.weights.items():
        if path in table.grids:
            check_grid(path, table.grids[path], weight)
    return replace(checkpoint, activations=table)


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a finished run. Raises UserError for another kind of folder."""
    path = folder / "config.json"
    if not path.exists() and (folder / "plan.json").exists():
        raise UserError(str(folder), got="a run that is not finished", remedy="adaround_optimize --resume")
    if not path.exists():
        remedy = f"make it: python -m src.quantize --out {folder}"
        raise UserError(str(path), got="no such file", expected="a quantized checkpoint", remedy=remedy)
    config = read_json(path)
    found = (config.get("kind"), config.get("version")) if isinstance(config, dict) else (None, None)
    if found != (KIND, VERSION):
        raise UserError(
            str(path), got=f"kind {found[0]!r}, version {found[1]!r}", expected=f"{KIND!r}, version {VERSION}"
        )
    return config


def static_table(
    config: Mapping[str, Any],
    weights: Mapping[str, QuantizedWeight],
    static: Mapping[str, tuple[float, float]],
) -> ActivationTable:
    """One row for all timesteps."""
    spec = Spec(config["bits_a"])
    qmin, qmax = (mx.array([float(bound)]) for bound in (spec.qmin, spec.qmax))
    grids = {}
    for path, (scale, shift) in static.items():
        centre = mx.array([[shift]]) if shift else None
        grids[path] = ActivationGrid(mx.array([scale]), qmin, qmax, centre, weights[path].smooth)
    return ActivationTable(np.array([MIDDLE], np.float32), grids)
