"""A write that fails is one line, leaves the old file as it was, and leaves nothing else."""

import os
import resource
import signal

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import files
from ditq.core.errors import DitqError, UserError

BIG = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)


class Figure:
    """What matplotlib does to a file."""

    def savefig(self, fname):
        with open(fname, "wb") as file:
            file.write(bytes(10**6))


WRITERS = {
    "a.txt": lambda path: files.write_text(path, "x" * 10**6),
    "a.json": lambda path: files.write_json(path, ["x" * 10**6]),
    "a.npz": lambda path: files.write_npz(path, {"a": np.zeros(400), "b": BIG}),
    "a.npy": lambda path: files.write_npy(path, BIG),
    "a.safetensors": lambda path: files.write_safetensors(path, {"x": mx.zeros(100_000)}),
    "a.png": lambda path: files.write_png(path, BIG),
    "a.svg": lambda path: files.write_figure(path, Figure()),
}
every_writer = pytest.mark.parametrize(("name", "write"), WRITERS.items(), ids=WRITERS.keys())


@pytest.fixture
def limited():
    """No file may grow beyond 20,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@every_writer
def test_a_limit_on_files_is_one_line_and_the_old_file_stays(tmp_path, limited, name, write):
    (tmp_path / name).write_text("old")
    with pytest.raises(UserError, match=f"{name}: got a file that cannot be written .*; .*free some space"):
        write(tmp_path / name)
    assert (tmp_path / name).read_text() == "old" and os.listdir(tmp_path) == [name]


@every_writer
def test_a_folder_that_cannot_be_written(tmp_path, name, write):
    (tmp_path / "file").write_text("")
    for folder in ("file", "a\0b", "x" * 300):
        with pytest.raises(UserError, match="cannot be written"):
            write(tmp_path / folder / name)
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "file"])


def test_tensors_that_were_not_written_whole_are_no_file(tmp_path, monkeypatch):
    def half(path, arrays, metadata):
        with open(path, "wb") as file:
            file.write(bytes(5))

    monkeypatch.setattr("mlx.core.save_safetensors", half)
    with pytest.raises(UserError, match="a.safetensors: got a file that cannot be written"):
        files.write_safetensors(tmp_path / "a.safetensors", {"x": mx.zeros(3)})
    assert os.listdir(tmp_path) == []


def test_text_that_is_no_unicode_is_told(tmp_path):
    with pytest.raises(UserError, match=r"a.txt: got 'caf\\udce9', which is not UTF-8 text"):
        files.write_text(tmp_path / "a.txt", "caf\udce9")
    with pytest.raises(UserError, match="a.json: got .*not UTF-8"):
        files.write_json(tmp_path / "a.json", {"prompt": "caf\udce9"})
    with pytest.raises(UserError, match="a.png: prompt: got .*not UTF-8"):
        files.write_png(tmp_path / "a.png", BIG, {"prompt": "caf\udce9"})
    assert os.listdir(tmp_path) == []


def test_a_number_that_json_has_not_is_told_by_its_key(tmp_path):
    with pytest.raises(DitqError, match=r"a.json: scores: psnr\[1\]: got inf"):
        files.write_json(tmp_path / "a.json", {"scores": {"psnr": [1.0, float("inf")]}})


def test_what_cannot_be_removed_is_told(tmp_path, monkeypatch):
    files.remove(tmp_path / "none")
    (tmp_path / "folder" / "in").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    files.remove(tmp_path / "link")
    assert (tmp_path / "folder" / "in").exists() and not (tmp_path / "link").is_symlink()
    files.remove(tmp_path / "folder")
    assert os.listdir(tmp_path) == []

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a").touch()
    monkeypatch.setattr("pathlib.Path.unlink", refuse)
    with pytest.raises(
        UserError, match=r"a: got something that cannot be removed .Permission denied.; remove it"
    ):
        files.remove(tmp_path / "a")


def test_free_space_of_what_is_no_place():
    with pytest.raises(UserError, match="cannot be looked at"):
        files.free_bytes("x" * 300)
