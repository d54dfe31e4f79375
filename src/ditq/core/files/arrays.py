"""Arrays from npy and npz files: what they declare is held against what is there before memory is taken.

Nothing is unpickled. Numbers in the other byte order are turned round, since MLX cannot take them.
"""

import math
import os
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ditq.core.files.reading import MALFORMED, in_bytes, memory, reading

UNPACKED = 256_000_000
"""Bytes that any archive may unpack to; a larger one may hold RATIO times its own length."""
RATIO = 16
_KINDS = "biufUS"
"""NumPy's letters for truth values, whole numbers, real numbers and texts."""
_WIDEST = 8
"""Bytes of a number: MLX has no wider real ones."""
_OF_MACOS = ("__MACOSX/", ".DS_Store")
"""What the Finder puts into archives that it packs."""
_LAST_CHARACTER, _HALVES = 0x10FFFF, (0xD800, 0xDFFF)
"""Unicode's last character, and what stands for half of one."""
LONGEST_NAME = 1000
"""Characters of an array's name."""


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name: numbers, truth values and texts.

    With `names` only these are read from the disk, and one that is not there is an error.
    """

    def read(file: BinaryIO) -> dict[str, np.ndarray]:
        if file.read(2) != b"PK":
            raise ValueError("no zip archive")
        with zipfile.ZipFile(file) as archive:
            entries = _entries(archive)
            absent = [name for name in names or () if name not in entries]
            if absent:
                raise ValueError(f"{absent[0]} is not a file in the archive")
            asked = entries if names is None else {name: entries[name] for name in names}
            _check_unpacked(asked, os.fstat(file.fileno()).st_size)
            return {name: _entry(archive, info, name) for name, info in asked.items()}

    return reading(path, read, "an npz archive of plain arrays", right=("an npz archive",))


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an npy file: numbers, truth values or texts."""

    def read(file: BinaryIO) -> np.ndarray:
        _check(file, os.fstat(file.fileno()).st_size)
        file.seek(0)
        return _array(file)

    return reading(path, read, "a plain npy array", right=("a single npy array",))


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's arrays by name. Raises ValueError for two of one name, and for packings that NumPy never makes."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.is_dir() or info.filename.startswith(_OF_MACOS):
            continue
        name = info.filename.removesuffix(".npy")
        if name in entries:
            raise ValueError(f"two arrays called {name[:80]!r}")
        if not name or len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"an array with the name {name[:80]!r}")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{name[:80]}: packed by method {info.compress_type}, which NumPy never uses")
        entries[name] = info
    return entries


def _check_unpacked(entries: Mapping[str, zipfile.ZipInfo], total: int) -> None:
    """Raises ValueError when these arrays unpack to more than a file of `total` bytes can stand for."""
    unpacked = sum(info.file_size for info in entries.values())
    most = min(max(UNPACKED, RATIO * total), memory())
    if unpacked > most:
        got = f"{in_bytes(total)} that unpack to {in_bytes(unpacked)}"
        raise ValueError(f"{got}; at most {in_bytes(most)} are read")


def _entry(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    """One array; whatever is wrong with it is told with its name."""
    try:
        with archive.open(info) as stream:
            _check(stream, info.file_size)
        with archive.open(info) as stream:
            array = _array(stream)
            if stream.read(1):  # the end, where the checksum is compared
                raise ValueError("it is longer than it declares")
        return array
    except MALFORMED as error:
        raise ValueError(f"{name[:80]}: {error}") from error


def _check(stream: Any, total: int) -> None:
    """Raises ValueError unless the array whose header begins a stream of `total` bytes fills it with plain values."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read is None:
        raise ValueError(f"version {version[0]}.{version[1]} of the npy format")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape, _, dtype = read(stream)
    if dtype.kind not in _KINDS or (dtype.kind in "biuf" and dtype.itemsize > _WIDEST):
        raise ValueError(f"values of the type {dtype}, not plain arrays of numbers or texts")
    size, there = math.prod(shape) * dtype.itemsize, total - stream.tell()
    if not dtype.itemsize and math.prod(shape) > 1:
        raise ValueError(f"{math.prod(shape)} texts of no length")
    if min(shape, default=0) < 0 or size != there or size > memory():
        raise ValueError(f"it declares shape {shape}, {in_bytes(size)}, and holds {in_bytes(there)}")


def _array(stream: Any) -> np.ndarray:
    """The array of an open npy file, in this machine's byte order. Raises ValueError for a text that is no Unicode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # headers of Python 2
        array = np.lib.format.read_array(stream, allow_pickle=False)
    native = array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    if native.dtype.kind == "U" and native.nbytes:
        codes = np.ascontiguousarray(native).reshape(-1).view(np.uint32)
        if (codes > _LAST_CHARACTER).any() or ((codes >= _HALVES[0]) & (codes <= _HALVES[1])).any():
            raise ValueError("a text that is no Unicode")
    return native
