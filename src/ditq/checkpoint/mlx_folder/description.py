"""config.json of a checkpoint folder: "quantization" as MLX reads it, the network's shape, and our own facts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

import ditq
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.mlx_folder.stored import Layout
from ditq.core import packing
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_stored_json
from ditq.core.spec import GROUP_SIZES
from ditq.models import Network, network_from

KIND, VERSION = "ditq.quantized_model", 1
_NAMES = {str: "a string", dict: "an object", int: "a whole number", bool: "true or false"}
_NEEDED: dict[str, type] = {
    "model": str,
    "model_type": str,
    "model_config": dict,
    "quantization": dict,
    "weight_quantization": dict,
}


def is_config(config: Any) -> bool:
    """Whether this is the config.json of a checkpoint folder, of whatever version."""
    return isinstance(config, dict) and config.get("kind") == KIND


def is_folder(path: Path) -> bool:
    """Whether `path` holds what export_checkpoint writes, which is complete in itself."""
    config = path / "config.json"
    return config.exists() and is_config(read_json(config))


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder. Raises UserError for another kind or version, and for a part that is missing."""
    path = folder / "config.json"
    config = read_stored_json(path, KIND, VERSION, "export_checkpoint")
    for key, kind in _NEEDED.items():
        if not isinstance(config.get(key), kind):
            raise UserError(f"{path}: {key}", got=repr(config.get(key)), expected=_NAMES[kind])
    if not isinstance(config["weight_quantization"].get("layers"), dict):
        raise UserError(f"{path}: weight_quantization", got="no layers", expected="the layout of each layer")
    return config


def description(
    network: Network,
    checkpoint: QuantizedCheckpoint,
    layouts: Mapping[str, Layout],
    scales: mx.Dtype,
    smoothed: bool,
) -> dict[str, Any]:
    """What config.json says of `network` with the checkpoint's layers in it."""
    usual = Counter((layout.stored_group, layout.bits) for layout in layouts.values()).most_common(1)
    group, bits = usual[0][0] if usual else (64, 4)
    quantization: dict[str, Any] = {"group_size": group, "bits": bits, "mode": "affine"}
    for path, layout in layouts.items():
        quantization[path] = {"group_size": layout.stored_group, "bits": layout.bits, "mode": "affine"}
    others = [path for path, module in network.named_modules() if hasattr(module, "to_quantized")]
    quantization |= {path: False for path in reversed(others) if path not in layouts}
    config = {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": checkpoint.model,
        "model_type": network.family,
        "model_config": asdict(network.config),
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


def network_of(config: Mapping[str, Any], folder: Path) -> Network:
    """A network of the folder's family and shape, with lazy random weights."""
    return network_from(config["model_type"], config["model_config"], str(folder / "config.json"))


def layouts_of(config: Mapping[str, Any], folder: Path) -> dict[str, Layout]:
    """Each quantized layer's layout, as config.json tells it. Raises UserError that names a layer without one."""
    ours, entries = config["weight_quantization"]["layers"], config["quantization"]
    return {
        path: _layout(f"{folder / 'config.json'}: {path}", entries.get(path), own)
        for path, own in ours.items()
    }


def _layout(what: str, entry: Any, own: Any) -> Layout:
    """A layer's layout from its entries in "quantization" and "weight_quantization"."""
    parts = {"bits": int, "group_size": int}, {"symmetric": bool, "per_channel": bool}
    for found, names in zip((entry, own), parts, strict=True):
        for name, kind in names.items():
            value = found.get(name) if isinstance(found, dict) else None
            if type(value) is not kind:
                raise UserError(f"{what}: {name}", got=repr(value), expected=_NAMES[kind])
    layout = Layout(entry["bits"], entry["group_size"], own["symmetric"], own["per_channel"])
    if layout.bits not in packing.BITS or layout.stored_group not in GROUP_SIZES:
        got = f"{layout.bits} bits in groups of {layout.stored_group}"
        raise UserError(what, got=got, expected="bits and groups that MLX has storage for")
    return layout
