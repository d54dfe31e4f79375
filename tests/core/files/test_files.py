"""Files are whole or absent, and unreadable ones are explained."""

import errno
import os

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import files
from ditq.core.errors import DitqError, UserError


def test_interrupted_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    for failure in (KeyboardInterrupt, RuntimeError):
        with pytest.raises(failure), files.replacing(path) as temporary:
            temporary.write_text("half")
            raise failure
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_full_disk_is_a_users_error_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(UserError, match="No space left"), files.replacing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_folder_in_the_way_is_a_users_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        files.write_text(tmp_path / "file" / "a.txt", "x")


def test_written_files_have_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    files.write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_round_trips(tmp_path):
    arrays = {"x": np.arange(6, dtype=np.float16).reshape(2, 3), "n": np.int64(3)}
    files.write_npz(tmp_path / "a.npz", arrays)
    back = files.read_npz(tmp_path / "a.npz")
    assert back["x"].dtype == np.float16 and np.array_equal(back["x"], arrays["x"]) and back["n"] == 3
    files.write_safetensors(tmp_path / "a.safetensors", {"w": mx.arange(3)}, {"kind": "test"})
    weights, metadata = files.read_safetensors(tmp_path / "a.safetensors")
    assert mx.array_equal(weights["w"], mx.arange(3)) and metadata["kind"] == "test"
    files.write_json(tmp_path / "a.json", {"ü": [1, 2.5]})
    assert files.read_json(tmp_path / "a.json") == {"ü": [1, 2.5]}
    picture = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    files.write_png(tmp_path / "a.png", picture, {"prompt": "ein Fuchs im Schnee ❄"})
    back, text = files.read_image(tmp_path / "a.png")
    assert np.array_equal(back, picture) and text["prompt"] == "ein Fuchs im Schnee ❄"


def test_object_arrays_are_never_unpickled(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="plain arrays"):
        files.read_npz(tmp_path / "evil.npz")


def test_json_without_nan(tmp_path):
    with pytest.raises(DitqError, match=r"a.json: x\[1\]: y: got nan; JSON has finite numbers alone"):
        files.write_json(tmp_path / "a.json", {"x": [0, {"y": float("nan")}]})
    assert os.listdir(tmp_path) == []


READERS = [
    files.read_text,
    files.read_json,
    files.read_npz,
    files.read_safetensors,
    files.read_image,
]


@pytest.mark.parametrize("read", READERS)
def test_unreadable_files_are_explained(tmp_path, read):
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "none")
    with pytest.raises(UserError, match="a folder"):
        read(tmp_path)
    (tmp_path / "noise").write_bytes(b"\xfb\xfe\x00garbage" * 9)
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path / "noise")


def test_named_arrays_alone_are_read(tmp_path):
    files.write_npz(tmp_path / "a.npz", {"x": np.arange(3), "y": np.zeros(2)})
    assert list(files.read_npz(tmp_path / "a.npz", ["y"])) == ["y"]
    assert files.read_npz(tmp_path / "a.npz", []) == {}
    with pytest.raises(UserError, match=r"a.npz: .*z is not a file in the archive"):
        files.read_npz(tmp_path / "a.npz", ["x", "z"])


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path):
    assert (
        0
        < files.free_bytes(tmp_path / "new" / "newer")
        == pytest.approx(files.free_bytes(tmp_path), rel=0.01)
    )


def test_other_kinds_and_versions_are_named(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"kind": "ditq.cake", "version": 1, "layers": 3})
    assert files.read_stored_json(path, "ditq.cake", 1, "bake")["layers"] == 3
    with pytest.raises(UserError) as caught:
        files.read_stored_json(path, "ditq.cake", 2, "bake")
    assert (
        str(caught.value) == f"{path}: got ditq.cake version 1; expected ditq.cake version 2, as bake writes"
    )
    for other in ([1], "text", None, {"kind": "ditq.cake"}, {"kind": "ditq.cake", "version": True}):
        with pytest.raises(UserError, match="expected ditq.cake version 1, as bake writes"):
            files.check_kind(other, path, "ditq.cake", 1, "bake")


def test_meta_of_an_npz_is_checked_and_stripped():
    text = '{"kind": "ditq.cake", "version": 1, "producer": "oven", "layers": 3}'
    meta = files.stored_meta({"__meta__": np.array(text)}, "a.npz", "ditq.cake", 1, "bake")
    assert meta == {"producer": "oven", "layers": 3}
    with pytest.raises(UserError, match="a.npz: got None version None; expected ditq.cake version 1"):
        files.stored_meta({}, "a.npz", "ditq.cake", 1, "bake")
    with pytest.raises(UserError, match="a.npz: got a __meta__ that is not JSON; expected ditq.cake"):
        files.stored_meta({"__meta__": np.array("{")}, "a.npz", "ditq.cake", 1, "bake")
