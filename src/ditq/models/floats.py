"""Stored tensors as floating-point numbers: float8 decoded, its scales multiplied in, integers told from numbers."""

import json
import re
from collections.abc import Mapping, Set
from pathlib import Path

import mlx.core as mx
import numpy as np

from ditq.core.errors import UserError
from ditq.core.files import read_safetensors
from ditq.core.files.raw_tensors import read_raw_tensors
from ditq.core.files.safetensors import NOT_IN_MLX, read_safetensors_header

Weights = dict[str, mx.array]
SCALES = (".scale_weight", ".weight_scale", ".weight_scale_inv")
"""What a layer's path is followed by in the name of its scale: ComfyUI's older and newer files, and others'."""
_NOT_WEIGHTS = ("scaled_fp8", ".scale_input", ".input_scale", ".comfy_quant")
"""Ends of keys in scaled float8 files that are no weights: a marker, scales of activations, the format in words."""
_MARKER = "scaled_fp8"
"""The key, behind a model's path, that says of all float8 matrices of its layers that they have scales."""
_TABLES = re.compile(
    r"(^|\.)(shared|embed_tokens|relative_attention_bias|(token|position)_embedding)\.weight$"
)
"""Embeddings of text encoders, which ComfyUI stores in float8 without scales."""
_FORMATS = ("float8_e4m3fn", "float8_e5m2")
"""Of ComfyUI's formats, those that are decoded here."""
_REMEDY = "download the file again, or use the checkpoint in float16, bfloat16 or plain float8"


def read_tensors(path: str | Path) -> tuple[Weights, set[str]]:
    """All tensors of one safetensors file, lazily, and the names of those in float8.

    Float8 is read as float16, which holds its every value exactly; scales are not multiplied in (`scaled`). A tensor
    of integers stays one, for whoever loads it to refuse. Raises UserError for a file that cannot be read.
    """
    dtypes = {name: tensor.dtype for name, tensor in read_safetensors_header(path)[0].items()}
    if any(dtype in NOT_IN_MLX for dtype in dtypes.values()):
        weights = {name: _to_mlx(value, dtypes[name]) for name, value in read_raw_tensors(path).items()}
    else:
        weights = read_safetensors(path)[0]
    float8 = {name for name, dtype in dtypes.items() if dtype in ("F8_E4M3", "F8_E5M2")}
    return {name: _decoded(value, dtypes[name]) for name, value in weights.items()}, float8


def is_float(array: mx.array) -> bool:
    """Whether an array holds real floating-point numbers."""
    return mx.issubdtype(array.dtype, mx.floating)


def _decoded(value: mx.array, dtype: str) -> mx.array:
    if dtype == "F8_E4M3":
        return mx.from_fp8(value, dtype=mx.float16)
    if dtype == "F8_E5M2":  # the upper half of a float16
        return mx.left_shift(value.astype(mx.uint16), mx.array(8, mx.uint16)).view(mx.float16)
    return value


def _to_mlx(value: np.ndarray, dtype: str) -> mx.array:
    if dtype == "BF16":
        return mx.array(value).view(mx.bfloat16)
    return mx.array(value.astype(np.float32) if dtype == "F64" else value)


def scaled(weights: Weights, float8: Set[str], source: str) -> Weights:
    """The weights times their scales, in float32, without what else is beside the weights of scaled float8 files.

    `float8` names those that were stored in float8. Raises UserError for scales that do not fit, that are missing or
    doubled, and for a format that is not decoded here.
    """
    found = dict(weights)
    scales: dict[str, str] = {}
    for key, value in sorted(weights.items(), key=lambda item: item[0]):
        end = next((end for end in SCALES if key.endswith(end)), None)
        target = f"{key.removesuffix(end)}.weight" if end else ""
        if end and target in weights and is_float(weights[target]):
            if target in scales:
                got = f"both {scales[target]} and {key}"
                raise UserError(source, got=got, expected=f"one scale of {target}", remedy=_REMEDY)
            scales[target] = key
            _check_scale(weights[target], value, target in float8, f"{source}: {key}")
            found[target] = _times(weights[target], found.pop(key))
        elif key.endswith(".comfy_quant"):
            _check_format(value, f"{source}: {key}")
        if key.endswith(_NOT_WEIGHTS):
            del found[key]
    _check_none_missing(weights, float8 - scales.keys(), source)
    return found


def _check_scale(weight: mx.array, scale: mx.array, is_float8: bool, where: str) -> None:
    """Raises UserError unless a scale is one positive number, or one for each row, of a weight in float8."""
    rows = weight.shape[0] if weight.ndim else 1
    by_row = scale.size == rows and scale.shape[:1] == (rows,)
    if not is_float(scale) or not (scale.size == 1 or by_row):
        expected = f"one number, or one for each of the {rows} rows of the weight"
        got = f"a scale of shape {tuple(scale.shape)} and dtype {scale.dtype}"
        raise UserError(where, got=got, expected=expected, remedy=_REMEDY)
    values = np.array(scale.astype(mx.float32)).reshape(-1)
    if (wrong := values[~(np.isfinite(values) & (values > 0))]).size:
        raise UserError(
            where, got=f"a scale of {wrong[0]:g}", expected="a finite number above 0", remedy=_REMEDY
        )
    if not is_float8 and (wrong := values[values != 1]).size:
        got = f"a scale of {wrong[0]:g} for a weight that is not in float8"
        raise UserError(where, got=got, expected="a weight in float8, or a scale of 1", remedy=_REMEDY)


def _check_none_missing(weights: Weights, unscaled: Set[str], source: str) -> None:
    """Raises UserError where the file says that a float8 matrix has a scale, and it has none."""
    marked = tuple(key.removesuffix(_MARKER) for key in weights if key.endswith(_MARKER))
    for key in sorted(key for key in unscaled if key.endswith(".weight") and weights[key].ndim == 2):
        layer = key.removesuffix(".weight")
        is_marked = key.startswith(marked) and not _TABLES.search(key)
        if is_marked or f"{layer}.comfy_quant" in weights:
            got = "a float8 matrix without its scale"
            expected = f"{layer}.scale_weight or .weight_scale, as the file is marked as scaled"
            raise UserError(f"{source}: {key}", got=got, expected=expected, remedy=_REMEDY)


def _times(weight: mx.array, scale: mx.array) -> mx.array:
    """A float32 weight times one scale, or times one for each of its rows."""
    if scale.size > 1 or not weight.ndim:
        return weight.astype(mx.float32) * scale.astype(mx.float32).reshape(-1, *[1] * (weight.ndim - 1))
    return weight.astype(mx.float32) * scale.astype(mx.float32).reshape(())


def _check_format(value: mx.array, where: str) -> None:
    """Raises UserError unless ComfyUI's description of a layer names a format that is decoded here."""
    try:
        described = json.loads(bytes(np.array(value).astype(np.uint8).reshape(-1)))
        name = described.get("format") if isinstance(described, Mapping) else None
    except (ValueError, RecursionError):
        name = None
    if name not in _FORMATS:
        remedy = "use the checkpoint in float16, bfloat16 or float8"
        raise UserError(where, got=f"the format {name}", expected=" or ".join(_FORMATS), remedy=remedy)
