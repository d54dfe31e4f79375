"""The npz files beside a folder's weights: activation grids, and the factors that were folded into the adaLN rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.activations import ActivationTable
from ditq.checkpoint.mlx_folder.description import GRIDS, SMOOTHING
from ditq.checkpoint.mlx_folder.digests import REMEDY, check_arrays
from ditq.checkpoint.mlx_folder.stored import table_from
from ditq.core import numbers
from ditq.core.activation_grid import kinds_of
from ditq.core.errors import UserError
from ditq.core.files import read_npz


def read_smoothing(folder: Path, config: Mapping[str, Any]) -> dict[str, mx.array]:
    """The factors of the smoothed layers; the file must hold those that config.json lists, and no others."""
    told = config["weight_quantization"]
    if told.get("smoothing") is None:
        _check_unnamed(config, SMOOTHING, folder, "weight_quantization: smoothing")
        return {}
    path, layers = folder / SMOOTHING, told["layers"]
    arrays = read_npz(path)
    for layer in dict.fromkeys([*told.get("smoothed", ()), *arrays]):
        if layer not in arrays or layer not in told.get("smoothed", layers):
            got = "no factors" if layer not in arrays else "factors of a layer that config.json does not list"
            expected = "the factors of each layer that config.json lists as smoothed, and no others"
            raise UserError(f"{path}: {layer}", got=got, expected=expected, remedy="copy the folder again")
        if layer not in layers or arrays[layer].dtype != np.float32 or arrays[layer].ndim != 1:
            got = f"{arrays[layer].dtype} of shape {arrays[layer].shape}"
            raise UserError(
                f"{path}: {layer}", got=got, expected="a float32 factor a channel, of a quantized layer"
            )
        numbers.check_positive(arrays[layer], f"{path}: {layer}", "factors")
    check_arrays(path, config, arrays)
    return {layer: mx.array(value) for layer, value in arrays.items()}


def read_table(
    folder: Path, config: Mapping[str, Any], smooth: Mapping[str, mx.array]
) -> ActivationTable | None:
    """The activation grids, with the factors of their layers; None for a folder without grids."""
    entry = config.get("activation_quantization")
    if entry is None:
        _check_unnamed(config, GRIDS, folder, "activation_quantization")
        return None
    path = folder / GRIDS
    arrays = read_npz(path)
    table = table_from(arrays, smooth, str(path))
    if entry["timesteps"] != table.timesteps.tolist() or entry.get("layers", len(table.grids)) != len(
        table.grids
    ):
        got = f"{len(table.grids)} layers, {len(table.timesteps)} timesteps from {table.timesteps[0]:g}"
        expected = "the layers and timesteps that config.json's activation_quantization names"
        raise UserError(str(path), got=got, expected=expected, remedy="copy the folder again")
    found = kinds_of(grid.at(table.timesteps) for grid in table.grids.values())
    if entry.get("kinds", {}).keys() != found.keys():
        got, told = (", ".join(kinds) or "none" for kinds in (found, entry.get("kinds", {})))
        expected = f"{told}, as config.json's activation_quantization says"
        raise UserError(f"{path}: kinds of grids", got=got, expected=expected, remedy="copy the folder again")
    check_arrays(path, config, arrays)
    return table


def _check_unnamed(config: Mapping[str, Any], name: str, folder: Path, field: str) -> None:
    """Raises UserError where config.json has a digest of a file that its `field` does not name."""
    if name in config.get("files", {}):
        expected = f"{name}, of which files holds a digest"
        raise UserError(f"{folder / 'config.json'}: {field}", got="nothing", expected=expected, remedy=REMEDY)
