"""Rows that are read by themselves are those that NumPy reads with the whole array."""

import gc
from pathlib import Path

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.files import write_npz
from ditq.core.files.rows import SpooledRows, stored_rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_of_an_npz_are_those_of_the_whole_array(tmp_path, dtype):
    rng, path = np.random.default_rng(0), tmp_path / "a.npz"
    arrays = {"first": rng.random((5, 3, 4)).astype(dtype), "second": rng.random((7, 2)).astype(dtype)}
    write_npz(path, arrays)
    found = stored_rows(path, ["second", "first"])
    for name, array in arrays.items():
        assert found[name].shape == array.shape and found[name].dtype == dtype
        for first, count in [(0, 1), (2, 3), (len(array) - 1, 1)]:
            np.testing.assert_array_equal(found[name].read(first, count), array[first : first + count])


def test_what_has_no_rows_to_read_is_refused(tmp_path):
    path, array = tmp_path / "a.npz", np.ones((4, 100))
    np.savez_compressed(path, a=array)
    with pytest.raises(UserError, match="a is packed"):
        stored_rows(path, ["a"])
    np.savez(path, a=np.asfortranarray(array))
    with pytest.raises(UserError, match="a lies in another order"):
        stored_rows(path, ["a"])
    np.savez(path, a=array)
    rows = stored_rows(path, ["a"])["a"]
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="it is shorter than it was"):
        rows.read(3, 1)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        rows.read(0, 1)


def test_spooled_rows_come_back_and_leave_nothing(tmp_path):
    rng = np.random.default_rng(0)
    parts = [rng.random((n, 3, 2)).astype(np.float32) for n in (2, 1, 4)]
    spool = SpooledRows(tmp_path / "new", (3, 2), np.dtype(np.float32))
    for part in parts[:2]:
        spool.add(part)
    np.testing.assert_array_equal(spool.read(1, 2), np.concatenate(parts)[1:3])
    spool.add(parts[2])
    whole = np.concatenate(parts)
    assert spool.shape == whole.shape
    np.testing.assert_array_equal(spool.read(0, 7), whole)
    np.testing.assert_array_equal(spool.read(6, 1), whole[6:])
    assert not list(Path(tmp_path / "new").iterdir())
    handle = spool._file
    del spool
    gc.collect()
    assert handle.closed


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a folder that cannot be written"):
        SpooledRows(tmp_path / "file", (1,), np.dtype(np.float32))
