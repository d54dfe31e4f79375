"""Safetensors files with any dtype that the format has, written byte by byte; and what float8 means, by definition."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Stored = tuple[str, np.ndarray]
"""The dtype's name in the file, and the bits."""
NAMES = {
    "float32": "F32",
    "float16": "F16",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
    "int64": "I64",
    "bool": "BOOL",
}


def write_stored(path: Path, tensors: Mapping[str, Stored | np.ndarray]) -> Path:
    """Writes a file as the format's description has it: length, header, data."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        dtype, values = tensor if isinstance(tensor, tuple) else (NAMES[tensor.dtype.name], tensor)
        raw = np.ascontiguousarray(values).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": values.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def float8_table(exponent_bits: int, has_infinity: bool) -> np.ndarray:
    """The value of each of the 256 bytes: sign, exponent, mantissa (Micikevicius et al., arXiv 2209.05433)."""
    mantissa_bits = 7 - exponent_bits
    bias, table = 2 ** (exponent_bits - 1) - 1, np.zeros(256, np.float32)
    for byte in range(256):
        sign = -1.0 if byte & 0x80 else 1.0
        exponent, mantissa = (byte & 0x7F) >> mantissa_bits, byte & (2**mantissa_bits - 1)
        fraction = mantissa / 2**mantissa_bits
        if has_infinity and exponent == 2**exponent_bits - 1:
            value = np.nan if mantissa else np.inf
        elif not has_infinity and byte & 0x7F == 0x7F:
            value = np.nan
        else:
            value = (
                fraction * 2.0 ** (1 - bias) if exponent == 0 else (1 + fraction) * 2.0 ** (exponent - bias)
            )
        table[byte] = sign * value
    return table


E4M3, E5M2 = float8_table(4, has_infinity=False), float8_table(5, has_infinity=True)
