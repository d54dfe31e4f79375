"""config.json of a checkpoint folder: "quantization" as MLX reads it, the network's shape, and our own facts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import ditq
from ditq.activations import ActivationTable
from ditq.checkpoint.checkpoint import ModelName, QuantizedCheckpoint
from ditq.checkpoint.mlx_folder.stored import Layout
from ditq.checkpoint.origin import Origin
from ditq.core.activation_grid import check_kinds, kinds_of
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_stored_json
from ditq.core.schema import FILLED, at_least, checked
from ditq.models import Network, check_same_shape, network_from

KIND, VERSION = "ditq.quantized_model", 1
SMOOTHING, GRIDS = "smoothing.npz", "activations.npz"
"""The files beside config.json; it names them, and no others are read."""
Bits = Literal[2, 3, 4, 5, 6, 8]
Group = Literal[32, 64, 128]
ScalesDtype = Literal["float16", "float32"]


class Packed(TypedDict):
    """How MLX's storage holds the layers; also a single layer."""

    bits: Bits
    group_size: Group


class PackedEntry(Packed, total=False):
    """The same, with what MLX need not be told."""

    mode: Literal["affine"]


class Own(TypedDict):
    """What MLX does not ask of a layer."""

    symmetric: bool
    per_channel: bool


class OwnEntry(Own, total=False):
    """The same with what earlier versions said of all layers at once, if at all."""

    scales: ScalesDtype
    bias: Literal["quantized"]
    """Present where the stored bias is not the float layer's."""


class Weights(TypedDict):
    """Our own facts of the weights; folders of earlier versions do not say which layers are smoothed."""

    layers: dict[str, OwnEntry]


class WeightsEntry(Weights, total=False):
    """The same with smoothing factors, and with the scales' dtype where an earlier version told it."""

    scales: ScalesDtype
    smoothing: Literal["smoothing.npz"] | None
    smoothed: Annotated[list[str], FILLED]


class Grids(TypedDict):
    """Our own facts of the activations."""

    file: Literal["activations.npz"]
    timesteps: Annotated[list[float], FILLED]


class GridsEntry(Grids, total=False):
    """The same with what can be left out."""

    scale: Literal["step"]
    layers: Annotated[int, at_least(0)]
    kinds: dict[str, str]
    """Kinds of grids beside step, bounds and shift, each with the first version of ditq that reads it."""


class Config(TypedDict):
    """config.json."""

    model: ModelName
    model_type: str
    model_config: dict[str, Any]
    quantization: dict[str, Any]
    weight_quantization: WeightsEntry


class WholeConfig(Config, total=False):
    """The same with what can be left out."""

    activation_quantization: GridsEntry | None
    made_from: Origin
    files: dict[str, str]
    meta: dict[str, Any]


def is_config(config: Any) -> bool:
    """Whether this is the config.json of a checkpoint folder, of whatever version."""
    return isinstance(config, dict) and config.get("kind") == KIND


def is_folder(path: Path) -> bool:
    """Whether `path` holds what export_checkpoint writes, which is complete in itself."""
    config = path / "config.json"
    return config.exists() and is_config(read_json(config))


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder, every field checked. Raises UserError that names file and field."""
    path = folder / "config.json"
    config: dict[str, Any] = dict(
        checked(read_stored_json(path, KIND, VERSION, "export_checkpoint"), WholeConfig, str(path))
    )
    check_kinds(
        (config.get("activation_quantization") or {}).get("kinds", {}),
        f"{path}: activation_quantization: kinds",
    )
    quantization = f"{path}: quantization"
    checked(config["quantization"], PackedEntry, quantization)
    for layer, entry in config["quantization"].items():
        if layer not in ("bits", "group_size", "mode") and entry is not False:
            checked(entry, PackedEntry, f"{quantization}: {layer}")
    return config


def description(
    network: Network,
    checkpoint: QuantizedCheckpoint,
    layouts: Mapping[str, Layout],
    smoothed: Sequence[str],
    origin: Origin,
) -> dict[str, Any]:
    """What config.json says of the float `network` with the checkpoint's layers in it; `smoothed` ones have factors."""
    usual = Counter((layout.stored_group, layout.bits) for layout in layouts.values()).most_common(1)
    group, bits = usual[0][0] if usual else (64, 4)
    quantization: dict[str, Any] = {"group_size": group, "bits": bits, "mode": "affine"}
    for path, layout in layouts.items():
        quantization[path] = {"group_size": layout.stored_group, "bits": layout.bits}
    others = [path for path, module in network.named_modules() if hasattr(module, "to_quantized")]
    quantization |= {path: False for path in reversed(others) if path not in layouts}
    biased = {path for path, weight in checkpoint.weights.items() if weight.bias is not None}
    config = {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": checkpoint.model,
        "model_type": network.family,
        "model_config": asdict(network.config),
        "quantization": quantization,
        "weight_quantization": {
            "smoothing": SMOOTHING if smoothed else None,
            **({"smoothed": smoothed} if smoothed else {}),
            "layers": {
                path: {
                    "symmetric": layout.symmetric,
                    "per_channel": layout.per_channel,
                    "scales": layout.scales,
                    **({"bias": "quantized"} if path in biased else {}),
                }
                for path, layout in layouts.items()
            },
        },
        "made_from": asdict(origin),
        "meta": checkpoint.meta,
    }
    table = checkpoint.activations
    if table is not None:
        config["activation_quantization"] = {
            "file": GRIDS,
            "scale": "step",
            "timesteps": [float(t) for t in table.timesteps],
            "layers": len(table.grids),
            **({"kinds": kinds} if (kinds := _kinds(table)) else {}),
        }
    return config


def _kinds(table: ActivationTable) -> dict[str, str]:
    return kinds_of(grid.at(table.timesteps) for grid in table.grids.values())


def network_of(config: Mapping[str, Any], folder: Path) -> Network:
    """A network of the folder's family and shape, with lazy random weights.

    Raises UserError for another shape than that of the model which config.json names.
    """
    check_same_shape(config["model"], config["model_config"], str(folder / "config.json"))
    return network_from(config["model_type"], config["model_config"], str(folder / "config.json"))


def layouts_of(config: Mapping[str, Any], folder: Path) -> dict[str, Layout]:
    """Each quantized layer's layout, as config.json tells it. Raises UserError that names a layer without one."""
    layouts = {}
    for path, own in config["weight_quantization"]["layers"].items():
        entry = config["quantization"].get(path)
        if not isinstance(entry, Mapping):
            expected = "its bits and group size, since weight_quantization names it"
            raise UserError(
                f"{folder / 'config.json'}: quantization: {path}", got=repr(entry), expected=expected
            )
        scales = own.get("scales", config["weight_quantization"].get("scales"))
        layouts[path] = Layout(
            entry["bits"], entry["group_size"], own["symmetric"], own["per_channel"], scales
        )
    return layouts
