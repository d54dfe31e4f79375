"""The header of a safetensors file is held against the file before MLX reads it lazily."""

import mlx.core as mx
import pytest

from ditq.core.errors import UserError
from ditq.core.files import read_safetensors, read_safetensors_header, write_safetensors
from tests.core.files.crafted import safetensors, tensor


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ([], "a header that is no JSON object"),
        (None, "a header that is no JSON object"),
        (b"{", "Expecting"),
        (b"\xff\xfe", "decode"),
        ({"x": 3}, "x: an entry without data_offsets, dtype, shape"),
        ({"x": {"dtype": "F32"}}, "x: an entry without"),
        ({"x": tensor(dtype="F33")}, "x: the dtype 'F33', which is none of BOOL"),
        ({"x": tensor(dtype=None)}, "x: the dtype 'None'"),
        ({"x": tensor(dtype="F64", shape=(1,))}, "x: the dtype F64, which MLX has not"),
        ({"x": tensor(shape=2)}, "x: the shape 2, not a list"),
        ({"x": tensor(shape=(-2,))}, "x: the shape"),
        ({"x": tensor(shape=(2.0,))}, "x: the shape"),
        ({"x": tensor(shape=(True, 2))}, "x: the shape"),
        ({"x": tensor(shape=(2**40, 0), offsets=(0, 0))}, "x: the shape .*below 2.31"),
        ({"x": tensor(offsets=[0])}, "x: the data_offsets"),
        ({"x": tensor(offsets=(8, 0))}, "x: the data_offsets"),
        ({"x": tensor(offsets=(-8, 0))}, "x: the data_offsets"),
        ({"x": tensor(offsets=("0", "8"))}, "x: the data_offsets"),
        ({"x": tensor(offsets=(0, 4))}, r"x: 4 bytes for F32 of shape \(2,\), which takes 8"),
        ({"x": tensor(shape=(1,), offsets=(0, 4)), "y": tensor()}, "x lies over y|y lies over x"),
        ({"x": tensor(), "y": tensor(offsets=(8, 16))}, "it holds .* bytes of .*; copy or download it again"),
        ({"x": tensor(shape=(1,), offsets=(0, 4))}, "it holds .* bytes of"),
        ({"x": tensor(), "__metadata__": [1]}, "__metadata__ is no object of texts"),
        ({"x": tensor(), "__metadata__": {"a": 1}}, "__metadata__ is no object of texts"),
        (b'{"x": 1, "x": 2}', "the key 'x' stands twice"),
        (b"[" * 5000, "nested too deeply"),
    ],
)
def test_a_header_that_makes_no_sense_is_told_with_its_key(tmp_path, header, says):
    path = safetensors(tmp_path / "a.safetensors", header)
    with pytest.raises(UserError, match=f"a.safetensors: got a file that cannot be read .*({says})"):
        read_safetensors(path)


def test_a_header_longer_than_the_file(tmp_path):
    path = tmp_path / "a.safetensors"
    for content in (b"\xff" * 8 + b"{}", b"\x90\0\0\0\0\0\0\0{}", b"{}"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="its header is cut off at|a header of"):
            read_safetensors(path)
    path.write_bytes(b"")
    with pytest.raises(UserError, match="got an empty file; .*; download it again"):
        read_safetensors(path)


def test_what_mlx_writes_is_read(tmp_path):
    given = {
        "a": mx.zeros((0, 3)),
        "b": mx.array(1.5),
        "c": mx.ones((2, 2), mx.bfloat16),
        "d": mx.array([True]),
    }
    mx.save_safetensors(str(tmp_path / "a.safetensors"), given)  # its metadata is null
    write_safetensors(tmp_path / "b.safetensors", given, {"kind": "x"})
    for name, metadata in (("a", {}), ("b", {"format": "mlx", "kind": "x"})):
        found, told = read_safetensors(tmp_path / f"{name}.safetensors")
        assert told == metadata and found.keys() == given.keys()
        assert all(mx.array_equal(found[key], given[key]) for key in given)
    header, _ = read_safetensors_header(tmp_path / "a.safetensors")
    assert header["c"].dtype == "BF16" and header["c"].shape == (2, 2)
    assert header["c"].end - header["c"].begin == 8
