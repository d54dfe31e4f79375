"""Checkpoints into modules: read single, sharded or folder files, then load them with every misfit named."""

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.floats import Weights, is_float, read_tensors, scaled
from ditq.models.folders import weight_files
from ditq.models.foreign import no_model, unwrapped, what_it_is

__all__ = ["Weights", "load_weights_into", "read_weights"]
_SHOWN = 5
"""How many keys of each kind an error shows; a wrong architecture misses hundreds."""


def read_weights(path: str | Path) -> Weights:
    """All arrays of a safetensors file, of a sharded checkpoint by its index, or of the checkpoint in a folder.

    Float8 is decoded (`floats.read_tensors`), and what trainers put before keys is taken away (`foreign.unwrapped`).
    """
    files, promised = weight_files(path)
    tensors: dict[str, mx.array] = {}
    float8: set[str] = set()
    for file in files:
        part, in_float8 = read_tensors(file)
        if twice := _in_order(tensors.keys() & part.keys()):
            raise UserError(str(file), got=f"{some(twice)} again", expected="each key in one shard alone")
        tensors |= part
        float8 |= in_float8
    if absent := _in_order(promised - tensors.keys()):
        raise UserError(
            str(path), got=f"shards without {some(absent)}", remedy="copy or download the shards again"
        )
    stored = unwrapped({key: (value, key in float8) for key, value in tensors.items()}, str(path))
    weights = {key: value for key, (value, _) in stored.items()}
    return scaled(weights, {key for key, (_, is_float8) in stored.items() if is_float8}, str(path))


def load_weights_into(
    module: nn.Module, weights: Weights, source: str, dtype: mx.Dtype | None = None, emptied: bool = False
) -> None:
    """Loads `weights` into `module`, in `dtype` or as they are, and evaluates them; nothing is loaded unless all fit.

    With `emptied` each leaves `weights` as it is cast: otherwise both dtypes lie in memory at once.
    Raises UserError that names, together, each key that is missing, extra, misshapen, of integers, or holds NaN or
    infinity; and that says what the file is when its keys are those of something else.
    """
    wanted = dict(tree_flatten(module.parameters()))
    problems = _misfits(wanted, weights)
    if not any(problems.values()):
        given, weights = weights, {}
        damaged, large = problems["not finite"], problems[f"too large for {dtype_name(dtype)}"] = [], []
        for key in _in_order(given):
            array = given.pop(key) if emptied else given[key]
            weights[key] = array if dtype is None else array.astype(dtype)
            if not _finite(weights[key]):
                (large if _finite(array) else damaged).append(key)
            del array
    got = [f"{len(keys)} {kind}: {some(keys)}" for kind, keys in problems.items() if keys]
    if got:
        foreign = no_model(weights) or (None if wanted.keys() & weights.keys() else what_it_is(weights))
        raise UserError(
            source,
            got="; ".join(got),
            expected=f"the {len(wanted)} parameters of this architecture",
            remedy=f"this is {foreign}" if foreign else _remedy(problems),
        )
    module.load_weights(list(weights.items()))


def some(keys: list[str]) -> str:
    """The first of some names, and how many more there are; overlong names are cut."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(key if len(key) <= 120 else f"{key[:117]}..." for key in keys[:_SHOWN]) + more


def _misfits(wanted: Mapping[str, mx.array], weights: Mapping[str, mx.array]) -> dict[str, list[str]]:
    shared = _in_order(wanted.keys() & weights.keys())
    return {
        "missing": _in_order(wanted.keys() - weights.keys()),
        "extra": _in_order(weights.keys() - wanted.keys()),
        "misshapen": [
            f"{key} {tuple(weights[key].shape)} instead of {tuple(wanted[key].shape)}"
            for key in shared
            if weights[key].shape != wanted[key].shape
        ],
        "not floating-point": [
            f"{key} ({dtype_name(weights[key].dtype)})" for key in shared if not is_float(weights[key])
        ],
    }


def _remedy(problems: Mapping[str, list[str]]) -> str:
    if problems["not floating-point"]:
        return "quantized weights are not decoded here; use float32, float16, bfloat16 or float8"
    if problems.get("not finite"):
        return "the file is damaged, or was saved from a training run that diverged: download it again"
    if any(keys for kind, keys in problems.items() if kind.startswith("too large")):
        return "load it as bfloat16 or float32 (--dtype)"
    return "give a whole checkpoint of this very model, or name the model that it is of"


def dtype_name(dtype: mx.Dtype | None) -> str:
    """`mlx.core.float16` -> "float16"."""
    return str(dtype).removeprefix("mlx.core.")


def _finite(array: mx.array) -> bool:
    """Whether an array has neither NaN nor infinity; it is evaluated.

    A sum tells at the speed of memory whether all may be well; only where it is not finite (or overflows in 16 bit)
    the elements are looked at.
    """
    return math.isfinite(float(mx.sum(array))) or bool(mx.isfinite(array).all().item())


def _in_order(keys: Iterable[str]) -> list[str]:
    """Sorted as a person would, block 2 before block 10; keys come from files and may be anything."""

    def places(key: str) -> list[tuple[int, str]]:
        return [
            (int(part), "") if re.fullmatch(r"[0-9]{1,9}", part) else (-1, part) for part in key.split(".")
        ]

    return sorted(keys, key=places)
