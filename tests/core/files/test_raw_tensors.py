"""Tensors that MLX cannot load come through NumPy, with the same values as through MLX where it can."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.files.raw_tensors import read_raw_tensors
from tests.core.files.crafted import safetensors, tensor


def test_values_are_those_that_mlx_reads(tmp_path):
    kinds = (mx.float32, mx.float16, mx.int8, mx.uint64, mx.bool_)
    given = {str(kind): mx.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    mx.save_safetensors(str(tmp_path / "a.safetensors"), given)
    found = read_raw_tensors(tmp_path / "a.safetensors")
    assert found.keys() == given.keys()
    assert all(np.array_equal(found[name], np.array(given[name])) for name in given)


def test_doubles_and_small_floats_are_read(tmp_path):
    data = np.array([1.5]).tobytes()
    path = safetensors(tmp_path / "a.safetensors", {"x": tensor("F64", (1,))}, data)
    assert read_raw_tensors(path)["x"].tolist() == [1.5]
    path = safetensors(tmp_path / "b.safetensors", {"x": tensor("F8_E5M2", (8,))}, data)
    assert read_raw_tensors(path)["x"].tobytes() == data
    path = safetensors(tmp_path / "c.safetensors", {"x": tensor("C64", (1,))}, data)
    with pytest.raises(UserError, match=r"c.safetensors: .*x: the dtype C64, which is not one of"):
        read_raw_tensors(path)
