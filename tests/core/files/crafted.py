"""Files as no writer makes them: archives, headers and arrays put together byte by byte."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def npy(array: np.ndarray | None = None, **header: Any) -> bytes:
    """An npy file; `header` changes what it declares ("shape", "descr")."""
    array = np.arange(6, dtype=np.float32) if array is None else array
    told = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    text = f"{told | header!r}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + array.tobytes()


def npz(path: Path, method: int = zipfile.ZIP_STORED, **entries: bytes) -> Path:
    """An npz file of these npy files."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content, method)  # without the time of day
    return path


def safetensors(path: Path, header: Any, data: bytes = bytes(8)) -> Path:
    """A safetensors file with this header, which may be bytes already."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def tensor(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """A header's entry of one tensor of eight bytes."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def zeros(size: int) -> bytes:
    """An npy file, deflated a thousandfold, of that many zeros."""
    stream = io.BytesIO()
    np.save(stream, np.zeros(size, np.uint8))
    return stream.getvalue()
