"""Arrays are read whole and plain: what a file declares is held against what is there before memory is taken."""

import zipfile

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.files import read_npy, read_npz
from tests.core.files.crafted import npy, npz, zeros


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (npy(shape=(10**13,)), r"x: it declares shape \(10000000000000,\), 40.0 TB, and holds 24 bytes"),
        (npy(shape=(-6,)), "x: it declares shape"),
        (npy(shape=(5,)), r"20 bytes, and holds 24 bytes"),
        (npy(descr="|O"), "x: values of the type object, not plain arrays"),
        (npy(np.zeros(2, "f4,i4")), "x: .*not plain arrays"),
        (npy(np.zeros(2, "V2")), "not plain arrays"),
        (npy(np.zeros(2, "M8[s]")), "not plain arrays"),
        (npy(np.zeros(2, np.complex64)), "not plain arrays"),
        (npy(np.zeros(4), shape=(2,), descr="<f16"), "not plain arrays|Type|type|descriptor"),
        (npy(np.zeros(0, "U0"), shape=(10**12,), descr="<U0"), "texts of no length"),
        (npy(np.zeros(1, np.uint32), shape=(), descr="<U1")[:-4] + b"\xff" * 4, "no Unicode"),
        (npy(np.zeros(1, np.uint32), shape=(), descr="<U1")[:-4] + b"\x00\xd8\0\0", "no Unicode"),
        (npy()[:-3], "and holds 21 bytes"),
        (npy()[:20], "x: "),
        (npy(descr="nonsense"), "x: "),
        (npy(shape="long"), "x: "),
        (b"\x93NUMPY\x03\x00" + npy()[8:], "version 3.0 of the npy format"),
        (b"a text", "x: "),
        (b"", "x: "),
    ],
)
def test_what_no_plain_array_is_refused_with_file_and_name(tmp_path, content, says):
    path = npz(tmp_path / "a.npz", x=content)
    with pytest.raises(UserError, match=f"a.npz: got a file that cannot be read .*{says}"):
        read_npz(path)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UserError, match="a.npy: got"):
        read_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_other_packings_are_refused(tmp_path, method):
    path = npz(tmp_path / "a.npz", method, x=npy())
    with pytest.raises(UserError, match="x: packed by method .*, which NumPy never uses"):
        read_npz(path)


def test_a_bomb_is_refused_before_memory_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("ditq.core.files.arrays.UNPACKED", 15_000_000)
    path = npz(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, x=zeros(10**7), y=zeros(10**7))
    with pytest.raises(UserError, match="kB that unpack to 20.0 MB; at most 15.0 MB are read"):
        read_npz(path)
    assert read_npz(path, ["x"])["x"].nbytes == 10**7


def test_deflated_arrays_are_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(9.0))
    assert np.array_equal(read_npz(tmp_path / "a.npz")["x"], np.arange(9.0))


@pytest.mark.parametrize("flip", [3, 30, 40, 60, 200, -30])
def test_damage_in_an_archive_is_told(tmp_path, flip):
    content = bytearray(npz(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, x=npy(np.arange(99.0))).read_bytes())
    content[flip] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match="a.npz: got"):
        read_npz(tmp_path / "a.npz")


def test_two_arrays_of_one_name_and_names_that_are_none(tmp_path):
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "a.npz", "w") as archive,
    ):
        archive.writestr("x.npy", npy())
        archive.writestr("x.npy", npy())
    with pytest.raises(UserError, match="two arrays called 'x'"):
        read_npz(tmp_path / "a.npz")
    for name in ("", "a\nb", "x" * 2000):
        with pytest.raises(UserError, match="an array with the name|a zip archive"):
            read_npz(npz(tmp_path / "b.npz", **{name: npy()}))


@pytest.mark.parametrize("kind", [">f4", ">i8", ">u2", ">f2", ">U3"])
def test_the_other_byte_order_is_turned_round(tmp_path, kind):
    values = np.array([1, 2, 3]).astype(kind)
    np.savez(tmp_path / "a.npz", x=values)
    np.save(tmp_path / "a.npy", values)
    for array in (read_npz(tmp_path / "a.npz")["x"], read_npy(tmp_path / "a.npy")):
        assert array.dtype.isnative and array.tolist() == values.tolist()
        if kind != ">U3":
            assert mx.array(array).tolist() == [1, 2, 3]


def test_arrays_without_axes_or_values_are_read(tmp_path):
    given = {
        "zero": np.float32(3),
        "none": np.zeros((0, 4)),
        "text": np.array("ein Fuchs"),
        "empty": np.array(""),
    }
    np.savez(tmp_path / "a.npz", **given)
    found = read_npz(tmp_path / "a.npz")
    assert found["zero"].shape == () and found["none"].shape == (0, 4)
    assert str(found["text"]) == "ein Fuchs" and str(found["empty"]) == ""


def test_what_the_finder_packs_with_arrays_is_skipped(tmp_path):
    npz(tmp_path / "a.npz", **{"x": npy(), "__MACOSX/._x": b"\0\x05\x16\x07"})
    assert list(read_npz(tmp_path / "a.npz")) == ["x"]


def test_a_damaged_npy_and_another_kind(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(shape=(10**13,)))
    with pytest.raises(UserError, match="a.npy: got a file that cannot be read .it declares shape"):
        read_npy(tmp_path / "a.npy")
    np.savez(tmp_path / "b.npy.npz", x=np.zeros(1))
    with pytest.raises(UserError, match="got an npz archive; expected a plain npy array"):
        read_npy(tmp_path / "b.npy.npz")
    with pytest.raises(UserError, match="got a single npy array; expected an npz archive"):
        (tmp_path / "c.npz").write_bytes(npy())
        read_npz(tmp_path / "c.npz")
