"""Stored tensors as floating-point numbers: float8 decoded, its scales multiplied in, integers told from numbers."""

import json
from collections.abc import Mapping
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
_FORMATS = ("float8_e4m3fn", "float8_e5m2")
"""Of ComfyUI's formats, those that are decoded here."""


def read_tensors(path: str | Path) -> Weights:
    """All tensors of one safetensors file, lazily, float8 among them as float16, which holds its every value exactly.

    Scales are not multiplied in (`scaled`). A tensor of integers stays one, for whoever loads it to refuse. Raises
    UserError for a file that cannot be read.
    """
    dtypes = {name: tensor.dtype for name, tensor in read_safetensors_header(path)[0].items()}
    if any(dtype in NOT_IN_MLX for dtype in dtypes.values()):
        weights = {name: _to_mlx(value, dtypes[name]) for name, value in read_raw_tensors(path).items()}
    else:
        weights = read_safetensors(path)[0]
    return {name: _decoded(value, dtypes[name]) for name, value in weights.items()}


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


def scaled(weights: Weights, source: str) -> Weights:
    """The weights times their scales, in float32, without what else is beside the weights of scaled float8 files.

    Raises UserError for scales that do not fit, and for a format that is not decoded here.
    """
    found = dict(weights)
    for key, value in weights.items():
        end = next((end for end in SCALES if key.endswith(end)), None)
        target = f"{key.removesuffix(end)}.weight" if end else ""
        if end and target in weights and is_float(weights[target]):
            found[target] = _times(weights[target], found.pop(key), f"{source}: {key}")
        elif key.endswith(".comfy_quant"):
            _check_format(value, f"{source}: {key}")
        if key.endswith(_NOT_WEIGHTS):
            del found[key]
    return found


def _times(weight: mx.array, scale: mx.array, where: str) -> mx.array:
    """A float32 weight times one scale, or times one for each of its rows."""
    rows = weight.shape[0] if weight.ndim else 1
    by_row = scale.size == rows and scale.shape[:1] == (rows,)
    if not is_float(scale) or not (scale.size == 1 or by_row):
        expected = f"one number, or one for each of the {rows} rows of the weight"
        remedy = "use the checkpoint in float16, bfloat16 or plain float8"
        got = f"a scale of shape {tuple(scale.shape)} and dtype {scale.dtype}"
        raise UserError(where, got=got, expected=expected, remedy=remedy)
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
