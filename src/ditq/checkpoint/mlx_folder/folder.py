"""The checkpoint folder: MLX's own convention, which stock loaders read as W4A16, with the activation grids apart.

config.json         "quantization" as MLX reads it, explicit for every layer; the model's shape; our own facts
model*.safetensors  packed layers (`weight`, `scales`, `biases`) and every other parameter of the transformer
activations.npz     grids per layer and timestep, if there are any
smoothing.npz       factors that were folded into the adaLN rows, if there are any

docs/artefacts.md describes each. config.json is written last: without it a folder is not finished.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

import ditq
from ditq.activations import ActivationTable
from ditq.capture import linears
from ditq.capture import replace as put
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.fold import folded
from ditq.checkpoint.inject import LayerMaker, check_fits, check_grid
from ditq.checkpoint.mlx_folder.shards import written_shards
from ditq.checkpoint.mlx_folder.stored import (
    PARTS,
    Layout,
    check_stored,
    restored,
    stored,
    table_arrays,
    table_from,
)
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, remove, write_json, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.models.loading import load_weights_into, read_weights
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig
from ditq.nn import Backend

KIND, VERSION = "ditq.quantized_model", 1
SCALES = {"float32": mx.float32, "float16": mx.float16}
"""What scales can be stored as."""
SHARD = 5 << 30
"""Bytes of a file at most, as MLX's tools cut theirs."""


def write_folder(
    folder: Path,
    mmdit: MMDiT,
    checkpoint: QuantizedCheckpoint,
    scales: mx.Dtype = mx.float32,
    shard: int = SHARD,
) -> list[Path]:
    """Writes the float transformer `mmdit` with the checkpoint's layers in it, and returns the files.

    `scales` is the dtype of the stored scales, float32 or float16. Smoothing factors are folded into adaLN rows, so
    that a reader that knows nothing of them is right. Raises UserError, naming the layer, for what does not fit, what
    MLX cannot store and what cannot be folded.
    """
    if scales not in SCALES.values():
        expected = " or ".join(SCALES)
        raise UserError(
            "scales", got=scales, expected=f"{expected}: bfloat16 would move codes by most of a step"
        )
    modules = linears(mmdit)
    check_fits(modules, checkpoint.weights)
    layouts = {path: Layout.of(weight, path) for path, weight in checkpoint.weights.items()}
    table, files = checkpoint.activations, []
    for path, weight in checkpoint.weights.items():
        if table is not None and path in table.grids:
            check_grid(path, table.grids[path], weight)
    arrays = folded(dict(tree_flatten(mmdit.parameters())), checkpoint.weights)
    for path, weight in checkpoint.weights.items():
        arrays |= stored(weight, path, scales)
    remove(folder / "config.json")
    files += written_shards(folder, arrays, shard)
    smooth = {path: np.array(w.smooth) for path, w in checkpoint.weights.items() if w.smooth is not None}
    for name, content in (("activations.npz", table and table_arrays(table)), ("smoothing.npz", smooth)):
        remove(folder / name)
        if content:
            write_npz(folder / name, content)
            files.append(folder / name)
    write_json(folder / "config.json", _config(mmdit, checkpoint, layouts, scales, bool(smooth)))
    return [*files, folder / "config.json"]


def read_folder(folder: Path) -> QuantizedCheckpoint:
    """The checkpoint of a folder, to be injected into the float model that it was made from.

    Raises UserError, naming the layer, for what is missing, extra, misshapen, truncated or of another version.
    """
    config, _, stored_weights = _read(folder)
    smooth = _smoothing(folder, config)
    weights = {path: replace(weight, smooth=smooth.get(path)) for path, weight in stored_weights}
    return QuantizedCheckpoint(config["model"], weights, _table(folder, config, smooth), config["meta"])


def read_model(folder: Path, activations: bool = True, backend: Backend | None = None) -> MMDiT:
    """The quantized transformer of a folder by itself: the float model is not needed. Errors as in `read_folder`."""
    config, mmdit, stored_weights = _read(folder)
    make = LayerMaker(config["model"], _table(folder, config, {}), activations, backend)
    modules, layers = linears(mmdit), {}
    for path, weight in stored_weights:
        layers[path] = make(path, weight, modules[path])
        mx.eval(
            layers[path].parameters()
        )  # now, so that one layer's codes lie unpacked in memory and not all
    put(mmdit, layers)
    return mmdit


def is_config(config: Any) -> bool:
    """Whether this is the config.json of a checkpoint folder, of whatever version."""
    return isinstance(config, dict) and config.get("kind") == KIND


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises UserError for another kind or version."""
    path = folder / "config.json"
    config = read_json(path)
    found = (config.get("kind"), config.get("version")) if isinstance(config, dict) else (None, None)
    if found != (KIND, VERSION):
        raise UserError(
            str(path), got=f"kind {found[0]!r}, version {found[1]!r}", expected=f"{KIND!r}, version {VERSION}"
        )
    return config


def _config(
    mmdit: MMDiT,
    checkpoint: QuantizedCheckpoint,
    layouts: Mapping[str, Layout],
    scales: mx.Dtype,
    smoothed: bool,
) -> dict[str, Any]:
    usual = Counter((layout.stored_group, layout.bits) for layout in layouts.values()).most_common(1)
    group, bits = usual[0][0] if usual else (64, 4)
    quantization: dict[str, Any] = {"group_size": group, "bits": bits, "mode": "affine"}
    for path, layout in layouts.items():
        quantization[path] = {"group_size": layout.stored_group, "bits": layout.bits, "mode": "affine"}
    others = [path for path, module in mmdit.named_modules() if hasattr(module, "to_quantized")]
    quantization |= {path: False for path in reversed(others) if path not in layouts}
    config = {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": checkpoint.model,
        "model_type": "mmdit",
        "model_config": asdict(mmdit.config),
        "quantization": quantization,
        "weight_quantization": {
            "scales": str(scales).rpartition(".")[2],
            "smoothing": "smoothing.npz" if smoothed else None,
            "layers": {
                path: {"symmetric": layout.symmetric, "per_channel": layout.per_channel}
                for path, layout in layouts.items()
            },
        },
        "meta": checkpoint.meta,
    }
    table = checkpoint.activations
    if table is not None:
        config["activation_quantization"] = {
            "file": "activations.npz",
            "scale": "step",
            "timesteps": [float(t) for t in table.timesteps],
            "layers": len(table.grids),
        }
    return config


def _read(folder: Path) -> tuple[dict[str, Any], MMDiT, Iterator[tuple[str, QuantizedWeight]]]:
    """The configuration, the transformer with its float parameters, and the quantized layers, without their factors.

    Where the quantized layers belong, the transformer has float ones of zeros. Each layer is unpacked when its turn
    comes; that all are there, and of the right shapes, is known before.
    """
    config = read_config(folder)
    arrays = read_weights(folder)
    layouts = _layouts(folder, config, arrays)
    mmdit = MMDiT(shape_of(config))
    modules = linears(mmdit)
    packed: dict[str, dict[str, mx.array]] = {}
    for path, layout in layouts.items():
        if path not in modules:
            raise UserError(
                f"{folder}: {path}", got="no such linear layer in the model", expected="one of its layers"
            )
        packed[path] = {part: arrays.pop(f"{path}.{part}") for part in PARTS}
        check_stored(packed[path], path, layout, tuple(modules[path].weight.shape))
    dtype = arrays["x_embedder.proj.weight"].dtype if "x_embedder.proj.weight" in arrays else mx.float32
    nothing = mx.zeros((1, 1), dtype)  # seen as any shape, it takes no memory
    places = {f"{path}.weight": mx.broadcast_to(nothing, modules[path].weight.shape) for path in layouts}
    load_weights_into(mmdit, {**arrays, **places}, str(folder))
    return config, mmdit, ((path, restored(packed.pop(path), path, layouts[path])) for path in layouts)


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
    return layouts_of(config)


def layouts_of(config: Mapping[str, Any]) -> dict[str, Layout]:
    """Each quantized layer's layout, as config.json tells it."""
    ours, entries = config["weight_quantization"]["layers"], config["quantization"]
    return {
        path: Layout(entries[path]["bits"], entries[path]["group_size"], own["symmetric"], own["per_channel"])
        for path, own in ours.items()
    }


def shape_of(config: Mapping[str, Any]) -> MMDiTConfig:
    """The shape of the folder's transformer."""
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in config["model_config"].items()
    }
    return MMDiTConfig(**fields)


def _smoothing(folder: Path, config: Mapping[str, Any]) -> dict[str, mx.array]:
    name = config["weight_quantization"]["smoothing"]
    return {} if name is None else {path: mx.array(value) for path, value in read_npz(folder / name).items()}


def _table(folder: Path, config: Mapping[str, Any], smooth: Mapping[str, mx.array]) -> ActivationTable | None:
    entry = config.get("activation_quantization")
    if entry is None:
        return None
    path = folder / entry["file"]
    return table_from(read_npz(path), smooth, str(path))
