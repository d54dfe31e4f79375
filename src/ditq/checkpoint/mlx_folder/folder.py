"""The checkpoint folder: MLX's own convention, which stock loaders read as W4A16, with the activation grids apart.

config.json         "quantization" as MLX reads it, explicit for every layer; the model's shape; our own facts
model*.safetensors  packed layers (`weight`, `scales`, `biases`) and every other parameter of the network
activations.npz     grids per layer and timestep, if there are any
smoothing.npz       factors that were folded into the adaLN rows, if there are any

A convolution is stored like a linear layer, as its unfolded kernel (out, kernel pixels * channels). MLX has no
quantized convolution: a stock loader reads a folder only if none of its convolutions is quantized.
docs/artefacts.md describes each file. config.json is written last: without it a folder is not finished.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.fold import folded
from ditq.checkpoint.inject import LayerMaker, check_fits, check_grid, quantizable
from ditq.checkpoint.mlx_folder.companions import read_smoothing, read_table
from ditq.checkpoint.mlx_folder.description import (
    GRIDS,
    SMOOTHING,
    description,
    layouts_of,
    network_of,
    read_config,
)
from ditq.checkpoint.mlx_folder.digests import arrays_digest, check_weights, file_digest
from ditq.checkpoint.mlx_folder.shards import INDEX, SINGLE, written_shards
from ditq.checkpoint.mlx_folder.stored import (
    PARTS,
    SCALES,
    Layout,
    check_stored,
    restored,
    stored,
    table_arrays,
)
from ditq.checkpoint.origin import Origin
from ditq.core import numbers
from ditq.core.errors import UserError
from ditq.core.files import remove, remove_leftovers, write_json, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.models import Network
from ditq.models.loading import dtype_name, load_weights_into, read_weights
from ditq.nn import Backend

SHARD = 5 << 30
"""Bytes of a file at most, as MLX's tools cut theirs."""


def write_folder(
    folder: Path,
    network: Network,
    checkpoint: QuantizedCheckpoint,
    dtype: mx.Dtype = mx.float16,
    scales: str | None = None,
    shard: int = SHARD,
) -> list[Path]:
    """Writes the float `network` with the checkpoint's layers in it, and returns the files.

    `dtype` is that of the stored parameters that are not quantized; `scales` that of the stored scales, a key of
    `SCALES`: None lets each layer have float16 where that changes none of its values. Smoothing factors are folded into
    adaLN rows, so that a reader that knows nothing of them is right. Raises UserError, naming the layer, before
    anything is written, for what does not fit, what cannot be stored and what cannot be folded.
    """
    arrays, layouts = check_writable(network, checkpoint, dtype, scales)
    if checkpoint.made_from is not None:
        checkpoint.made_from.check(network, "checkpoint", checkpoint.model)
    _check_stored(arrays, dtype)
    grids = None if checkpoint.activations is None else table_arrays(checkpoint.activations)
    for path, weight in checkpoint.weights.items():
        arrays |= stored(weight, path, layouts[path])
    remove(folder / "config.json")
    remove_leftovers(folder)
    files = written_shards(folder, arrays, shard)
    digests = {file.name: file_digest(file) for file in files}
    smooth = {path: np.array(w.smooth) for path, w in checkpoint.weights.items() if w.smooth is not None}
    for name, content in ((GRIDS, grids), (SMOOTHING, smooth)):
        remove(folder / name)
        if content:
            write_npz(folder / name, content)
            files.append(folder / name)
            digests[name] = arrays_digest(content)
    config = description(network, checkpoint, layouts, list(smooth), Origin.of(network))
    write_json(folder / "config.json", {**config, "files": digests})
    return [*files, folder / "config.json"]


def check_writable(
    network: Network,
    checkpoint: QuantizedCheckpoint,
    dtype: mx.Dtype = mx.float16,
    scales: str | None = None,
) -> tuple[dict[str, mx.array], dict[str, Layout]]:
    """The parameters that `write_folder` stores beside the packed layers, factors folded in, and the layers' layouts.

    Nothing of the network is evaluated: a skeleton serves to ask, before anything is loaded, for what `write_folder`
    would refuse of the checkpoint.
    """
    modules = quantizable(network, network.anatomy)
    check_fits(modules, checkpoint.weights)
    layouts = {path: Layout.of(weight, path, scales) for path, weight in checkpoint.weights.items()}
    table = checkpoint.activations
    if table is not None:
        _check_table(table, checkpoint.weights, modules)
        table_arrays(table)
    parameters = folded(dict(tree_flatten(network.parameters())), checkpoint.weights, network.anatomy)
    biases = {f"{path}.bias": weight.bias for path, weight in checkpoint.weights.items()}
    parameters |= {name: bias for name, bias in biases.items() if bias is not None}
    kept = {name: array for name, array in parameters.items() if name.removesuffix(".weight") not in layouts}
    return {name: array.astype(dtype) for name, array in kept.items()}, layouts


def read_folder(folder: Path) -> QuantizedCheckpoint:
    """The checkpoint of a folder, to be injected into the float model that it was made from.

    Raises UserError, naming the layer, for what is missing, extra, misshapen, truncated or of another version, and,
    naming the file, for one that was not written with config.json.
    """
    config, _, stored_weights = _read(folder)
    smooth = read_smoothing(folder, config)
    weights = {path: replace(weight, smooth=smooth.get(path)) for path, weight in stored_weights}
    table, made_from = read_table(folder, config, smooth), config.get("made_from")
    return QuantizedCheckpoint(config["model"], weights, table, config.get("meta", {}), made_from)


def read_model(
    folder: Path, activations: bool = True, backend: Backend | None = None, dtype: mx.Dtype = mx.float32
) -> Network:
    """The quantized network of a folder by itself, computing in `dtype`: the float model is not needed.

    Errors as in `read_folder`.
    """
    config, network, stored_weights = _read(folder, dtype)
    table = read_table(folder, config, {})
    read_smoothing(folder, config)
    make = LayerMaker(config["model"], table, activations, backend, network.anatomy)
    modules, layers = capture.layers(network), {}
    for path, weight in stored_weights:
        layers[path] = make(path, weight, modules[path])
        mx.eval(
            layers[path].parameters()
        )  # now, so that one layer's codes lie unpacked in memory and not all
    capture.replace(network, {**layers, **make.others(network, layers)})
    return network


def _check_table(
    table: ActivationTable, weights: Mapping[str, QuantizedWeight], modules: Mapping[str, capture.Layer]
) -> None:
    """Raises UserError, naming the layer, for a grid that does not fit its weight."""
    for path, weight in weights.items():
        if path in table.grids:
            check_grid(path, table.grids[path], weight, table.timesteps, capture.channels(modules[path]))


def _read(
    folder: Path, dtype: mx.Dtype | None = None
) -> tuple[dict[str, Any], Network, Iterator[tuple[str, QuantizedWeight]]]:
    """The configuration, the network with its float parameters, and the quantized layers, without their factors.

    `dtype` is the parameters'; None leaves them as they are stored.

    Where the quantized layers belong, the network has float ones of zeros. Each layer is unpacked when its turn comes;
    that all are there, and of the right shapes, is known before.
    """
    config = read_config(folder)
    index = folder / INDEX
    source = index if index.exists() else folder / SINGLE
    arrays = read_weights(source)
    check_weights(folder, config, source)
    layouts = _layouts(folder, config, arrays)
    network = network_of(config, folder)
    modules = quantizable(network, network.anatomy)
    packed: dict[str, dict[str, mx.array]] = {}
    for path, layout in layouts.items():
        if path not in modules:
            raise UserError(
                f"{folder}: {path}", got="no such layer in the model", expected="one that can be quantized"
            )
        packed[path] = {part: arrays.pop(f"{path}.{part}") for part in PARTS}
        check_stored(packed[path], f"{folder}: {path}", layout, capture.matrix(modules[path]).shape)
        told, found = layout.scales, packed[path]["scales"].dtype
        if told is not None and found != SCALES[told]:
            expected = f"{told}, as config.json's weight_quantization says"
            raise UserError(f"{folder}: {path}.scales", got=str(found).rpartition(".")[2], expected=expected)
    biases = _own_biases(folder, config, arrays)
    shapes = {f"{path}.weight": modules[path].weight.shape for path in layouts}
    load_weights_into(network, {**arrays, **_zeros(shapes, mx.float32)}, str(folder), dtype)
    _check_floats(arrays, str(folder))
    network.load_weights(list(_zeros(shapes, network.dtype).items()), strict=False)
    whole = (
        (
            path,
            replace(restored(packed.pop(path), f"{folder}: {path}", layouts[path]), bias=biases.get(path)),
        )
        for path in layouts
    )
    return config, network, whole


def _own_biases(
    folder: Path, config: Mapping[str, Any], arrays: Mapping[str, mx.array]
) -> dict[str, mx.array]:
    """The biases that were quantized with their layers, float32, by path."""
    own = [path for path, entry in config["weight_quantization"]["layers"].items() if "bias" in entry]
    for path in own:
        if f"{path}.bias" not in arrays:
            raise UserError(f"{folder}: {path}", got="no bias", expected="the one that config.json names")
    return {path: arrays[f"{path}.bias"].astype(mx.float32) for path in own}


def _zeros(shapes: Mapping[str, tuple[int, ...]], dtype: mx.Dtype) -> dict[str, mx.array]:
    """Zeros of these shapes, which take no memory."""
    return {name: mx.broadcast_to(mx.zeros((1,), dtype), shape) for name, shape in shapes.items()}


def _layouts(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, mx.array]) -> dict[str, Layout]:
    """Each quantized layer's layout; config.json and the arrays must name the same ones."""
    told = {path: entry for path, entry in config["quantization"].items() if isinstance(entry, dict)}
    there = {key.removesuffix(".scales") for key in arrays if key.endswith(".scales")}
    ours = config["weight_quantization"]["layers"]
    for path in sorted(told.keys() | there | ours.keys()):
        parts = [part for part in PARTS if f"{path}.{part}" not in arrays]
        if path not in told or path not in ours:
            place = "quantization" if path not in told else "weight_quantization"
            raise UserError(
                f"{folder}: {path}", got=f"packed weights that config.json's {place} does not name"
            )
        if parts:
            raise UserError(
                f"{folder}: {path}", got=f"no {', '.join(parts)}", expected="a whole quantized layer"
            )
    return layouts_of(config, folder)


def _check_floats(arrays: Mapping[str, mx.array], source: str) -> None:
    """Raises UserError, naming the parameter, for one so large that its product with another overflows."""
    for name in _too_large(arrays):
        numbers.check_numbers(arrays[name].astype(mx.float32), f"{source}: {name}")


def _check_stored(arrays: Mapping[str, mx.array], dtype: mx.Dtype) -> None:
    """Raises UserError, naming the parameter, for one that the dtype it is to be stored in does not reach."""
    for name in _too_large(arrays):
        raise UserError(
            f"the network: {name}",
            got=f"values beyond {dtype_name(dtype)}",
            remedy="store what is not quantized as bfloat16 or float32 (export_checkpoint --dtype)",
        )


def _too_large(arrays: Mapping[str, mx.array]) -> Iterator[str]:
    for name, array in arrays.items():
        # float16 has no such limit to compare with
        if mx.issubdtype(array.dtype, mx.floating) and not float(mx.abs(array).max()) <= numbers.LARGEST:
            yield name
