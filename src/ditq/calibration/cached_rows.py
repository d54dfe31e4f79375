"""One array of a block cache at one boundary, left on disk: its rows are read when they are asked for."""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from ditq.calibration.stored import check_array, made_again_by
from ditq.core.files import read_npz
from ditq.core.files.rows import StoredRows, stored_rows
from ditq.models.state import SomeRows


class CachedRows:
    """One array of a cache at one boundary: row r is row `r % rows_per_sample` of file `r // rows_per_sample`."""

    def __init__(self, paths: Sequence[Path], key: str, of_sample: tuple[int, ...], dtype: str, made_by: str):
        self.paths, self.key, self.of_sample, self.dtype = paths, key, of_sample, np.dtype(dtype)
        self.made_by = made_by
        self._places: dict[int, StoredRows] = {}
        """In each file that was read and checked."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rows."""
        rows, *rest = self.of_sample
        return (len(self.paths) * rows, *rest)

    def rows(self, rows: SomeRows) -> mx.array:
        """Some rows as they are stored. Raises UserError, naming file and array, for what is missing or misshapen."""
        made = np.empty((len(rows), *self.of_sample[1:]), self.dtype)
        samples, inside = np.divmod(rows, self.of_sample[0])
        with made_again_by(self.made_by):
            for sample in np.unique(samples):
                at = np.flatnonzero(samples == sample)
                made[at] = self._of_sample(int(sample), inside[at])
        return mx.array(made)

    def _of_sample(self, sample: int, rows: SomeRows) -> np.ndarray:
        path, place = self.paths[sample], self._places.get(sample)
        if place is not None:
            return np.concatenate([place.read(row, 1) for row in rows.tolist()])
        array = read_npz(path, [self.key])[self.key]
        check_array(path, self.key, array, self.of_sample, self.dtype.name, "metadata.json")
        self._places[sample] = stored_rows(path, [self.key])[self.key]
        return array[rows]
