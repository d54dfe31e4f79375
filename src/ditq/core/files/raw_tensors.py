"""Tensors of safetensors files that MLX cannot load, through NumPy."""

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ditq.core.files.reading import reading
from ditq.core.files.safetensors import EXPECTED, read_safetensors_header

NUMPY: dict[str, Any] = {
    **{f"{letter}{bits}": f"<{letter.lower()}{bits // 8}" for letter in "IU" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"<f{bits // 8}" for bits in (16, 32, 64)},
    "BOOL": "?",
    "BF16": "<u2",
    "F8_E4M3": "u1",
    "F8_E5M2": "u1",
}
"""How NumPy holds each dtype; for those that it lacks, the bits as unsigned integers."""


def read_raw_tensors(path: str | Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors file, each as `NUMPY` says, in memory of their own.

    Raises UserError that names the tensor for a dtype that is not there, and for a file that cannot be read.
    """
    header = read_safetensors_header(path)[0]

    def read(file: BinaryIO) -> dict[str, np.ndarray]:
        found = {}
        for name, tensor in header.items():
            if tensor.dtype not in NUMPY:
                raise ValueError(
                    f"{name[:200]}: the dtype {tensor.dtype}, which is not one of {', '.join(NUMPY)}"
                )
            file.seek(tensor.begin)
            kind = np.dtype(NUMPY[tensor.dtype])
            found[name] = np.frombuffer(file.read(tensor.end - tensor.begin), kind).reshape(tensor.shape)
        return found

    return reading(path, read, EXPECTED, right=("a safetensors file",))
