"""Safetensors files: the header is checked before MLX sees it, since MLX reads lazily and would fail much later."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import mlx.core as mx

from ditq.core.files.reading import reading
from ditq.core.files.text import parsed

LARGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors library."""
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
}
"""Bits of a value of each dtype of the format."""
NOT_IN_MLX = ("F8_E5M2", "F64", "F4", "F6_E2M3", "F6_E3M2")
"""Those for which MLX refuses the whole file."""
EXPECTED = "a complete safetensors file"
_KEYS = {"dtype", "shape", "data_offsets"}


@dataclass(frozen=True)
class Tensor:
    """What the header says of one tensor; `begin` and `end` are its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_safetensors(path: str | Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """The arrays (read lazily, when first used) and the metadata of a safetensors file."""

    def read(file: BinaryIO) -> tuple[dict[str, mx.array], dict[str, str]]:
        for name, tensor in _header(file)[0].items():
            if tensor.dtype in NOT_IN_MLX:
                raise ValueError(f"{name}: the dtype {tensor.dtype}, which MLX has not")
        return mx.load(str(file.name), format="safetensors", return_metadata=True)  # pyright: ignore[reportReturnType]

    return reading(path, read, EXPECTED, right=("a safetensors file",))


def read_safetensors_header(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the header says of each tensor, and the metadata. Raises UserError unless file and header agree."""
    return reading(path, _header, EXPECTED, right=("a safetensors file",))


def _header(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    length, total = file.read(8), os.fstat(file.fileno()).st_size
    size = int.from_bytes(length, "little")
    if len(length) < 8 or size > total - 8:
        raise ValueError(f"its header is cut off at {total:,} bytes")
    if size > LARGEST_HEADER:
        raise ValueError(f"a header of {size:,} bytes")
    header = parsed(file.read(size).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("a header that is no JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ is no object of texts")
    tensors = {name: _tensor(name, entry, 8 + size) for name, entry in header.items()}
    _check_places(tensors, 8 + size, total)
    return tensors, metadata


def _tensor(name: str, entry: Any, start: int) -> Tensor:
    """The entry of one tensor. Raises ValueError, with its name, for one that makes no sense."""
    name = name[:200]
    if not isinstance(entry, dict) or not entry.keys() >= _KEYS:
        raise ValueError(f"{name}: an entry without {', '.join(sorted(_KEYS))}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name}: the dtype {str(dtype)[:40]!r}, which is none of {', '.join(BITS)}")
    if not _whole(shape) or any(length >= 2**31 for length in shape):
        raise ValueError(f"{name}: the shape {str(shape)[:80]}, not a list of lengths below 2^31")
    if not _whole(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{name}: the data_offsets {str(offsets)[:80]}, not where it begins and ends")
    needed = -(-math.prod(shape) * BITS[dtype] // 8)
    if offsets[1] - offsets[0] != needed:
        got = f"{offsets[1] - offsets[0]:,} bytes"
        raise ValueError(f"{name}: {got} for {dtype} of shape {tuple(shape)}, which takes {needed:,}")
    return Tensor(dtype, tuple(shape), start + offsets[0], start + offsets[1])


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(
        isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in numbers
    )


def _check_places(tensors: dict[str, Tensor], start: int, total: int) -> None:
    """Raises ValueError when tensors lie over each other, or the file ends elsewhere than the last of them."""
    end, before = start, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin < end and tensor.end > tensor.begin:
            raise ValueError(f"{name[:200]} lies over {before[:200]}")
        if tensor.end > end:
            end, before = tensor.end, name
    if end != total:
        raise ValueError(f"it holds {total:,} bytes of {end:,}; copy or download it again")
