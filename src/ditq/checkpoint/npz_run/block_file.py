"""weights/mm{N}.npz: the quantized layers of one block, and the static activation grids learned with them.

{path}__weight_int  (out, columns) int8; uint8 on asymmetric grids. Of a convolution, its unfolded kernel
{path}__scale       (out, groups) float32, steps; groups is 1 per channel
{path}__zero        (out, groups) float32, on asymmetric grids alone
{path}__smooth      (in,) float32, where the weight was smoothed
{path}__bias        (out,) float32, where it is not the float layer's
{path}__a_scale     float32, the step of the layer's input: () where one was learned with the weights; (timesteps,)
                    where they were quantized for the grids of a quant_config.json, whose steps these are
{path}__a_shift     float32, the centre of that grid
__meta__            JSON: kind, version, producer, block, per layer bits, symmetry and group size, and the caller's
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

import mlx.core as mx
import numpy as np
from jaxtyping import Float32

import ditq
from ditq.core import affine, numbers
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_npz, stored_meta, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.core.schema import checked, shown
from ditq.core.spec import Spec

KIND, VERSION = "ditq.quantized_block", 1
MIDDLE = 500.0
"""The timestep of grids that hold at all timesteps; nothing depends on it."""

PARTS = ("weight_int", "scale", "zero", "smooth", "bias", "a_scale", "a_shift")


class _Meta(TypedDict):
    layers: dict[str, Spec]


Weights = dict[str, QuantizedWeight]
StaticGrids = dict[str, TimestepGrid]
"""Grids of one row, by the path of the layer whose input stands on them."""


def block_file(folder: Path, number: int) -> Path:
    """Where block `number` of the checkpoint in `folder` lies."""
    return folder / "weights" / f"mm{number}.npz"


def write_block(
    folder: Path,
    number: int,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, TimestepGrid],
    meta: Mapping[str, Any],
    steps: Mapping[str, Float32[np.ndarray, "timesteps"]] = MappingProxyType({}),
) -> None:
    """Writes the layers of one block, and the static grids of those inputs that have one.

    `meta` joins the file's own. Of a grid only step and centre are kept: a reader says its bits. `steps` are those of
    grids that are stored elsewhere, at each of their timesteps.
    """
    write_layers(block_file(folder, number), weights, activations, {**meta, "block": number}, steps)


def write_layers(
    path: Path,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, TimestepGrid],
    meta: Mapping[str, Any],
    steps: Mapping[str, Float32[np.ndarray, "timesteps"]] = MappingProxyType({}),
) -> None:
    """Writes any layers, as `write_block` does, to a file of another name."""
    arrays: dict[str, np.ndarray] = {}
    layers = {}
    for layer, weight in weights.items():
        weight.check(layer)
        spec = weight.spec
        layers[layer] = {"bits": spec.bits, "symmetric": spec.symmetric, "group_size": spec.group_size}
        arrays[f"{layer}__weight_int"] = np.array(weight.codes.astype(affine.code_dtype(spec)))
        arrays[f"{layer}__scale"] = np.array(weight.scale, np.float32)
        if not spec.symmetric:
            arrays[f"{layer}__zero"] = np.array(weight.zero, np.float32)
        if weight.smooth is not None:
            arrays[f"{layer}__smooth"] = np.array(weight.smooth, np.float32)
        if weight.bias is not None:
            arrays[f"{layer}__bias"] = np.array(weight.bias, np.float32)
    for layer, grid in activations.items():
        scale, shift = step_and_centre(layer, grid)
        grid.rows.check(f"{layer}: activation")
        arrays[f"{layer}__a_scale"] = np.array(scale, np.float32)
        arrays[f"{layer}__a_shift"] = np.array(shift, np.float32)
    arrays |= {f"{layer}__a_scale": np.array(scales, np.float32) for layer, scales in steps.items()}
    own = {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "scale": "step",
    }
    write_npz(
        path,
        {**arrays, "__meta__": np.array(json.dumps({**meta, **own, "layers": layers}))},
    )


def read_block(
    folder: Path, number: int, activation_bits: int | None = None
) -> tuple[Weights, StaticGrids, dict[str, Any]]:
    """The layers of one block, the static grids of their inputs, of `activation_bits`, and the file's meta data.

    Without `activation_bits` the grids are left out. Raises UserError, naming file and layer, for what is missing, of
    another kind or version, or misshapen.
    """
    path = block_file(folder, number)
    weights, activations, meta = read_layers(path, activation_bits)
    if meta.get("block", number) != number:
        raise UserError(
            f"{path}: __meta__: block", got=shown(meta["block"]), expected=f"{number}, as it is called"
        )
    return weights, activations, meta


def read_layers(
    path: Path, activation_bits: int | None = None
) -> tuple[Weights, StaticGrids, dict[str, Any]]:
    """What `write_layers` wrote to a file of any name; see `read_block`."""
    arrays = read_npz(path)
    meta = stored_meta(arrays, path, KIND, VERSION, "adaround_optimize")
    weights, activations, layers = {}, {}, _layers(path, meta)
    _check_known(path, arrays, layers)
    for layer, grid in layers.items():
        weights[layer] = _weight(path, layer, arrays, grid)
        learned = {f"{layer}__a_scale", f"{layer}__a_shift"} & arrays.keys()
        if activation_bits is not None and learned and not _of_table(layer, arrays):
            activations[layer] = _static(path, layer, arrays, activation_bits, weights[layer].smooth)
    return weights, activations, meta


def _of_table(layer: str, arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the layer's steps are those of a quant_config.json, which holds the grids themselves."""
    return f"{layer}__a_shift" not in arrays and arrays[f"{layer}__a_scale"].ndim == 1


def static_grid(step: float, centre: float, bits: int, smooth: mx.array | None = None) -> TimestepGrid:
    """A symmetric grid that holds at all timesteps."""
    shift = np.array([[centre]], np.float32) if centre else None
    rows = GridRows.of([bits], np.array([step], np.float32), shift)
    return TimestepGrid(np.array([MIDDLE], np.float32), rows, smooth)


def step_and_centre(layer: str, grid: TimestepGrid) -> tuple[float, float]:
    """The two numbers of a static grid. Raises DitqError, naming the layer, for a grid of more than these."""
    rows = grid.rows
    if len(rows) != 1 or (rows.shift is not None and rows.shift.size != 1):
        raise DitqError(f"{layer}: only a static grid with one centre can be stored, got {len(rows)} rows")
    return np.array(rows.scale).item(), 0.0 if rows.shift is None else np.array(rows.shift).item()


def _layers(path: Path, meta: Mapping[str, Any]) -> dict[str, Spec]:
    """The grid of each layer that `__meta__` names."""
    return checked(meta, _Meta, f"{path}: __meta__")["layers"]


def _check_known(path: Path, arrays: Mapping[str, np.ndarray], layers: Mapping[str, Spec]) -> None:
    """Raises UserError for an array that is no part of a layer: a renamed one would be missed without a word."""
    known = {f"{layer}__{part}" for layer in layers for part in PARTS}
    for name in arrays:
        if name != "__meta__" and name not in known:
            raise UserError(
                str(path), got=f"an array {name!r}", expected="parts of the layers that __meta__ names"
            )


def _static(
    path: Path, layer: str, arrays: Mapping[str, np.ndarray], bits: int, smooth: mx.array | None
) -> TimestepGrid:
    """The learned grid of a layer's input."""
    found = {}
    for part in ("a_scale", "a_shift"):
        array = arrays.get(f"{layer}__{part}")
        if array is None or array.size != 1 or array.dtype.kind != "f" or not np.isfinite(array).all():
            got = f"no {part}" if array is None else f"{part} {array.tolist()}"
            raise UserError(f"{path}: {layer}", got=got, expected="one finite number")
        found[part] = float(array.item())
    grid = static_grid(found["a_scale"], found["a_shift"], bits, smooth)
    grid.rows.check(f"{path}: {layer}: activation")
    return grid


def _weight(path: Path, layer: str, arrays: Mapping[str, np.ndarray], spec: Spec) -> QuantizedWeight:
    needed = ["weight_int", "scale"] + ([] if spec.symmetric else ["zero"])
    missing = [part for part in needed if f"{layer}__{part}" not in arrays]
    if missing:
        raise UserError(f"{path}: {layer}", got=f"no {', '.join(missing)}", expected="a whole layer")
    if spec.symmetric and f"{layer}__zero" in arrays:
        raise UserError(
            f"{path}: {layer}", got="zero points", expected="none: __meta__ says that it is symmetric"
        )
    _check_arrays(path, layer, arrays, spec)
    scale = mx.array(arrays[f"{layer}__scale"])
    smooth, bias = (arrays.get(f"{layer}__{part}") for part in ("smooth", "bias"))
    weight = QuantizedWeight(
        codes=mx.array(arrays[f"{layer}__weight_int"]),
        scale=scale,
        zero=mx.zeros_like(scale) if spec.symmetric else mx.array(arrays[f"{layer}__zero"]),
        spec=spec,
        smooth=None if smooth is None else mx.array(smooth),
        bias=None if bias is None else mx.array(bias),
    )
    weight.check(f"{path}: {layer}")
    return replace(weight, codes=weight.codes.astype(affine.code_dtype(spec)))


def _check_arrays(path: Path, layer: str, arrays: Mapping[str, np.ndarray], spec: Spec) -> None:
    """Raises UserError for a part of another dtype or shape than the layer's codes and grid ask."""
    codes = arrays[f"{layer}__weight_int"]
    if codes.ndim != 2:
        raise UserError(
            f"{path}: {layer}", got=f"weight_int of shape {codes.shape}", expected="(out, columns)"
        )
    rows, columns = codes.shape
    grid = rows, spec.groups(columns, f"{path}: {layer}")
    shapes = {"weight_int": codes.shape, "scale": grid, "zero": grid, "bias": (rows,)}
    for part in PARTS:
        array = arrays.get(f"{layer}__{part}")
        if array is None:
            continue
        whole = part == "weight_int"
        if array.dtype.kind not in ("iu" if whole else "f") or not array.dtype.isnative:
            expected = "whole numbers" if whole else "floating-point numbers"
            raise UserError(f"{path}: {layer}__{part}", got=str(array.dtype), expected=expected)
        if part == "a_scale" and array.ndim:
            numbers.check_positive(array, f"{path}: {layer}__{part}")
        if array.shape != shapes.get(part, array.shape) or (part == "smooth" and array.ndim != 1):
            expected = shapes.get(part, "a factor a channel")
            raise UserError(f"{path}: {layer}__{part}", got=f"shape {array.shape}", expected=expected)
