"""What is no regular file is refused at once, and what a file really is stands in the message."""

import gzip
import os
import socket

import numpy as np
import pytest
from PIL import Image

from ditq.core import files
from ditq.core.errors import UserError
from ditq.core.files.reading import in_bytes

READERS = {
    "text": files.read_text,
    "JSON": files.read_json,
    "npz": files.read_npz,
    "npy": files.read_npy,
    "safetensors": files.read_safetensors,
    "header": files.read_safetensors_header,
    "picture": files.read_image,
}
every_reader = pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614\nsize 4335048312\n"
TORCH = b"PK\x03\x04" + bytes(22) + b"\x10\x00\x00\x00archive/data.pkl" + bytes(40)


@every_reader
def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, monkeypatch, read):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
    for path, got in {
        tmp_path: "a folder",
        tmp_path / "pipe": "a named pipe; .*; write it to a file first",
        tmp_path / "socket": "a socket",
        "/dev/zero": "a device",
        tmp_path / "none": "no such file",
        tmp_path / ("x" * 300): "File name too long",
        f"{tmp_path}/a\0b": "null byte",
        f"{tmp_path}/a\ud800b": "a name that is not UTF-8",
        tmp_path / "pipe" / "x": "Not a directory",
    }.items():
        with pytest.raises(UserError, match=f"got .*{got}"):
            read(path)


@every_reader
def test_a_file_without_permission(tmp_path, monkeypatch, read):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a").write_text("x")
    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="a: got Permission denied"):
        read(tmp_path / "a")


@every_reader
@pytest.mark.parametrize(
    ("content", "got"),
    [
        (LFS, "a Git LFS pointer; .*; run git lfs pull"),
        (TORCH, "a PyTorch checkpoint .a zip of pickles.; .*convert it"),
        (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94.", "a Python pickle, as PyTorch writes; .*convert it"),
        (gzip.compress(b"x"), "a gzip archive; .*; unpack it first"),
        (b"GGUF\x03\0\0\0" + bytes(64), "a GGUF file; .*; use the safetensors file"),
        (bytes(4096), "a file of zeros"),
    ],
    ids=["LFS", "PyTorch", "pickle", "gzip", "GGUF", "zeros"],
)
def test_a_file_is_told_by_what_it_is(tmp_path, read, content, got):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UserError, match=f"a: got {got}"):
        read(tmp_path / "a")


@every_reader
@pytest.mark.parametrize(
    "content", [b"<!doctype html><html>", b"\n<HTML>", b"\xef\xbb\xbf<html>", b"<?xml v"]
)
def test_a_page_is_told(tmp_path, read, content):
    (tmp_path / "a").write_bytes(content)
    if read is files.read_text and content.startswith(b"<?xml"):
        return
    with pytest.raises(UserError, match="a: got an (HTML page|XML text); .*; download the file itself"):
        read(tmp_path / "a")


def test_each_kind_in_place_of_each_other(tmp_path):
    files.write_json(tmp_path / "JSON", {"a": 1})
    np.savez(tmp_path / "npz.npz", x=np.zeros(2))
    np.save(tmp_path / "npy.npy", np.zeros(2))
    files.write_safetensors(tmp_path / "safetensors.safetensors", {})
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "picture.png")
    for path in tmp_path.iterdir():
        for kind, read in READERS.items():
            told = {"text": "JSON", "header": "safetensors"}.get(kind, kind)
            if told == path.name.partition(".")[0]:
                read(path)
            else:
                with pytest.raises(
                    UserError, match=f"{path.name}: got an? (JSON|npz|single|safetensors|PNG)"
                ):
                    read(path)


def test_a_file_beyond_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("ditq.core.files.text.LARGEST", 10)
    (tmp_path / "a").write_text("x" * 11)
    with pytest.raises(UserError, match="a: got 11 bytes; expected UTF-8 text of 10 bytes at most"):
        files.read_text(tmp_path / "a")


def test_sizes_in_words():
    assert [in_bytes(n) for n in (0, 999, 1500, 2_500_000, 36 << 40)] == [
        *("0 bytes", "999 bytes", "1.5 kB", "2.5 MB", "39.6 TB")
    ]
