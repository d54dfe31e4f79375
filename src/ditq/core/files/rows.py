"""Arrays that stay on disk: their rows, one per calibration sample, are read when they are asked for."""

import tempfile
import weakref
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ditq.core.errors import UserError
from ditq.core.files.reading import reading


@dataclass(frozen=True)
class StoredRows:
    """An array of an npz file, read row by row; `read_npz` has checked it before."""

    path: Path
    offset: int
    """Of its first value in the file."""
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self, first: int, count: int) -> np.ndarray:
        """So many rows from the `first` on. Raises UserError where the file has become shorter or is gone."""
        shape = (count, *self.shape[1:])

        def values(file: BinaryIO) -> np.ndarray:
            wanted = prod(shape) * self.dtype.itemsize
            file.seek(self.offset + first * prod(self.shape[1:]) * self.dtype.itemsize)
            found = file.read(wanted)
            if len(found) != wanted:
                raise ValueError("it is shorter than it was")
            return np.frombuffer(found, self.dtype).reshape(shape)

        return reading(self.path, values, "an npz archive", right=("an npz archive",))


def stored_rows(path: Path, names: Iterable[str]) -> dict[str, StoredRows]:
    """Where these arrays of an npz file lie. Raises UserError for one that is packed or not in C's order."""

    def find(file: BinaryIO) -> dict[str, StoredRows]:
        found = {}
        with zipfile.ZipFile(file) as archive:
            for name in names:
                info = archive.getinfo(f"{name}.npy")
                file.seek(info.header_offset + 26)
                lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
                file.seek(info.header_offset + 30 + sum(lengths))
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{name} is packed, and its rows cannot be read by themselves")
                version = np.lib.format.read_magic(file)
                header = np.lib.format.read_array_header_1_0
                shape, by_columns, dtype = (
                    header if version == (1, 0) else np.lib.format.read_array_header_2_0
                )(file)
                if (by_columns and len(shape) > 1) or not dtype.isnative:
                    raise ValueError(f"{name} lies in another order than rows of this machine's numbers")
                found[name] = StoredRows(path, file.tell(), dtype, shape)
        return found

    return reading(path, find, "an npz archive as ditq writes it", right=("an npz archive",))


class SpooledRows:
    """An array in a nameless file of a folder, to which rows are added; it goes with the object, or the process."""

    def __init__(self, folder: Path, shape: tuple[int, ...], dtype: np.dtype):
        self.row, self.dtype, self.count = shape, dtype, 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (lives as long as self)
        except OSError as error:
            raise _full(folder, error) from error
        self._folder = folder
        weakref.finalize(self, self._file.close)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return (self.count, *self.row)

    def add(self, rows: np.ndarray) -> None:
        """Writes rows behind those that are there. Raises UserError for a full disk."""
        assert rows.shape[1:] == self.row and rows.dtype == self.dtype, "rows of one shape and dtype"
        left = np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data
        self._file.seek(0, SEEK_END)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise _full(self._folder, error) from error
        self.count += len(rows)

    def read(self, first: int, count: int) -> np.ndarray:
        """So many rows from the `first` on."""
        shape = (count, *self.row)
        size = prod(self.row) * self.dtype.itemsize
        made = np.empty(shape, self.dtype)
        left = made.reshape(-1).view(np.uint8).data
        self._file.seek(first * size)
        while left:
            read = self._file.readinto(left)
            assert read, "rows that were written"
            left = left[read:]
        return made


def _full(folder: Path, error: OSError) -> UserError:
    got = f"a folder that cannot be written ({error.strerror or error})"
    return UserError(str(folder), got=got, remedy="choose another place or free some space")
