"""Digests of a folder's files, which config.json holds: files of another run and damaged ones are refused.

A safetensors file and the index of shards are digested byte by byte, in about a second per GB. The entries of an npz
file carry the time at which they were written, so its digest is that of its arrays.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ditq.checkpoint.mlx_folder.shards import INDEX, SINGLE
from ditq.core.errors import UserError
from ditq.core.files import inside, reading

EXPECTED = "the file that was written with config.json"
REMEDY = "copy the whole folder again, or export it again"
CHUNK = 1 << 24
"""Bytes that are read at once."""


def file_digest(path: Path) -> str:
    """32 hexadecimal digits of a file's bytes (`b2sum -l 128` prints the same). Raises UserError without the file."""

    def digested(file: BinaryIO) -> str:
        blake = hashlib.blake2b(digest_size=16)
        while chunk := file.read(CHUNK):
            blake.update(chunk)
        return blake.hexdigest()

    return reading(path, digested, EXPECTED)


def arrays_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """32 hexadecimal digits of the arrays' names, dtypes, shapes and values, in whatever order they are."""
    blake = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        header = f"{name}\0{array.dtype.str}{array.shape}".encode()
        blake.update(len(header).to_bytes(8, "little") + header + array.tobytes())
    return blake.hexdigest()


def check_weights(folder: Path, config: Mapping[str, Any], source: Path) -> None:
    """Raises UserError, naming the file, unless `source` and its shards are the files written with config.json.

    `source` is what is read: model.safetensors, or the index of the shards. Folders of earlier versions have no
    digests and pass.
    """
    if "files" not in config:
        return
    _told(config, source)
    for name, told in config["files"].items():
        path = inside(folder, name, f"{folder / 'config.json'}: files")
        if name in (SINGLE, INDEX) or path.suffix == ".safetensors":
            _check(path, file_digest(path), told)


def check_arrays(path: Path, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """The same for the arrays of the npz file at `path`."""
    if "files" in config:
        _check(path, arrays_digest(arrays), _told(config, path))


def _told(config: Mapping[str, Any], path: Path) -> str:
    """The digest that config.json holds of the file at `path`."""
    if path.name not in config["files"]:
        raise UserError(
            str(path), got="a file that config.json's files do not name", expected=EXPECTED, remedy=REMEDY
        )
    return config["files"][path.name]


def _check(path: Path, found: str, told: str) -> None:
    if found != told:
        got = f"another or a damaged file (digest {found}, not {told})"
        raise UserError(str(path), got=got, expected=EXPECTED, remedy=REMEDY)
