"""weights/mm{N}.npz: the quantized layers of one block, and the static activation grids learned with them.

{path}__weight_int  (out, in) int8; uint8 on asymmetric grids
{path}__scale       (out, groups) float32, steps; groups is 1 per channel
{path}__zero        (out, groups) float32, on asymmetric grids alone
{path}__smooth      (in,) float32, where the weight was smoothed
{path}__a_scale     float32, the step of the layer's input, where one was learned
{path}__a_shift     float32, the centre of that grid
__meta__            JSON: kind, version, producer, block, per layer bits, symmetry and group size, and the caller's
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec

KIND, VERSION = "ditq.quantized_block", 1

StaticGrids = dict[str, tuple[float, float]]
"""Step and centre of each layer's input."""


def block_file(folder: Path, number: int) -> Path:
    """Where block `number` of the checkpoint in `folder` lies."""
    return folder / "weights" / f"mm{number}.npz"


def write_block(
    folder: Path,
    number: int,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, tuple[float, float]],
    meta: Mapping[str, Any],
) -> None:
    """Writes the layers of one block, and (step, centre) of those inputs that have one; `meta` joins the file's own."""
    write_layers(block_file(folder, number), weights, activations, {**meta, "block": number})


def write_layers(
    path: Path,
    weights: Mapping[str, QuantizedWeight],
    activations: Mapping[str, tuple[float, float]],
    meta: Mapping[str, Any],
) -> None:
    """The same for any layers, in a file of another name."""
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
    for layer, (scale, shift) in activations.items():
        arrays[f"{layer}__a_scale"] = np.array(scale, np.float32)
        arrays[f"{layer}__a_shift"] = np.array(shift, np.float32)
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


def read_block(folder: Path, number: int) -> tuple[dict[str, QuantizedWeight], StaticGrids, dict[str, Any]]:
    """The layers of one block, their static activation grids, and the file's meta data.

    Raises UserError, naming file and layer, for what is missing, of another kind or version, or misshapen.
    """
    return read_layers(block_file(folder, number))


def read_layers(path: Path) -> tuple[dict[str, QuantizedWeight], StaticGrids, dict[str, Any]]:
    """The same of a file of any name that `write_layers` wrote."""
    arrays = read_npz(path)
    meta = _meta(path, arrays)
    if meta.get("kind") != KIND or meta.get("version") != VERSION:
        raise UserError(
            str(path),
            got=f"kind {meta.get('kind')!r}, version {meta.get('version')!r}",
            expected=f"{KIND!r}, version {VERSION}",
        )
    weights, activations = {}, {}
    for layer, grid in meta["layers"].items():
        weights[layer] = _weight(path, layer, arrays, Spec(**grid))
        if f"{layer}__a_scale" in arrays:
            activations[layer] = float(arrays[f"{layer}__a_scale"]), float(arrays[f"{layer}__a_shift"])
    return weights, activations, meta


def _meta(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    if "__meta__" not in arrays:
        raise UserError(str(path), got="no __meta__", expected=f"a file of kind {KIND!r}")
    return json.loads(str(arrays["__meta__"]))


def _weight(path: Path, layer: str, arrays: Mapping[str, np.ndarray], spec: Spec) -> QuantizedWeight:
    needed = ["weight_int", "scale"] + ([] if spec.symmetric else ["zero"])
    missing = [part for part in needed if f"{layer}__{part}" not in arrays]
    if missing:
        raise UserError(f"{path}: {layer}", got=f"no {', '.join(missing)}", expected="a whole layer")
    scale = mx.array(arrays[f"{layer}__scale"])
    smooth = arrays.get(f"{layer}__smooth")
    weight = QuantizedWeight(
        codes=mx.array(arrays[f"{layer}__weight_int"]),
        scale=scale,
        zero=mx.zeros_like(scale) if spec.symmetric else mx.array(arrays[f"{layer}__zero"]),
        spec=spec,
        smooth=None if smooth is None else mx.array(smooth),
    )
    weight.check(f"{path}: {layer}")
    return replace(weight, codes=weight.codes.astype(affine.code_dtype(spec)))
