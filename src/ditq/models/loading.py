"""Checkpoints into modules: read single, sharded or folder files, then load them with every misfit named."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.core.files import read_json, read_safetensors

Weights = dict[str, mx.array]
_INDEX_SUFFIX = ".safetensors.index.json"
_SHOWN = 5
"""How many keys of each kind an error shows; a wrong architecture misses hundreds."""


def read_weights(path: str | Path) -> Weights:
    """All arrays of a safetensors file, of a sharded checkpoint by its index, or of the checkpoint in a folder."""
    path = Path(path)
    if path.is_dir():
        path = _checkpoint_in(path)
    if not path.name.endswith(_INDEX_SUFFIX):
        return read_safetensors(path)[0]
    index = read_json(path)
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise UserError(
            str(path), got="an index without 'weight_map'", expected="the index of a sharded checkpoint"
        )
    weights: Weights = {}
    for shard in sorted(set(index["weight_map"].values())):
        weights |= read_safetensors(path.parent / shard)[0]
    absent = sorted(set(index["weight_map"]) - set(weights))
    if absent:
        raise UserError(
            str(path), got=f"shards without {_some(absent)}", remedy="copy or download the shards again"
        )
    return weights


def load_weights_into(module: nn.Module, weights: Mapping[str, mx.array], source: str) -> None:
    """Loads `weights` into `module` and evaluates them; nothing is loaded unless everything fits.

    Raises UserError that names, together, each key that is missing, extra, misshapen or holds NaN or infinity.
    """
    wanted = dict(tree_flatten(module.parameters()))
    shared = wanted.keys() & weights.keys()
    misshapen = [
        f"{key} {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in _in_order(shared)
        if weights[key].shape != wanted[key].shape
    ]
    problems = {
        "missing": _in_order(wanted.keys() - weights.keys()),
        "extra": _in_order(weights.keys() - wanted.keys()),
        "misshapen": misshapen,
    }
    if not any(problems.values()):
        problems["not finite"] = _not_finite(weights)
    got = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in problems.items() if keys]
    if got:
        raise UserError(
            source, got="; ".join(got), expected=f"the {len(wanted)} parameters of this architecture"
        )
    module.load_weights(list(weights.items()))


def _checkpoint_in(folder: Path) -> Path:
    for pattern in (f"*{_INDEX_SUFFIX}", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise UserError(str(folder), got=f"several checkpoints ({names})", remedy="name one of the files")
        if found:
            return found[0]
    raise UserError(
        str(folder), got="no safetensors file", expected="a checkpoint, or a folder that holds one"
    )


def _not_finite(weights: Mapping[str, mx.array]) -> list[str]:
    """Keys with NaN or infinity; evaluates one array after the other, so that memory holds the checkpoint only once.

    A sum tells at the speed of memory whether all may be well; only where it is not finite (or overflows in 16 bit)
    the elements are looked at.
    """
    suspects = [key for key in _in_order(weights) if not math.isfinite(float(mx.sum(weights[key])))]
    return [key for key in suspects if not mx.isfinite(weights[key]).all().item()]


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _in_order(keys: Iterable[str]) -> list[str]:
    """Sorted as a person would: block 2 before block 10."""
    return sorted(
        keys, key=lambda key: [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]
    )
