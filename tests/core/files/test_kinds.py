"""Kinds of files are told from what the programs that make them really write."""

import io
import pickle
import tarfile

import numpy as np
import pytest

from ditq.core.files.kinds import kind_of


def test_what_pytorch_writes():
    torch = pytest.importorskip("torch")
    names = {True: "a PyTorch checkpoint (a zip of pickles)", False: "a Python pickle, as PyTorch writes"}
    for zipped, name in names.items():
        stream = io.BytesIO()
        torch.save({"x": torch.zeros(3)}, stream, _use_new_zipfile_serialization=zipped)
        found = kind_of(stream.getvalue()[:512])
        assert found is not None and found[0] == name and found[1] and "convert it" in found[1]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [{"x": 1}, [1, 2], np.zeros(3), {}], ids=["dict", "list", "array", "empty"])
def test_what_pickle_writes(value, protocol):
    found = kind_of(pickle.dumps(value, protocol))
    assert found is not None and found[0] == "a Python pickle, as PyTorch writes"


def test_other_archives_and_what_tells_nothing():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"))
    assert kind_of(stream.getvalue()[:512]) == ("a tar archive", "unpack it first")
    stream = io.BytesIO()
    np.savez(stream, x=np.zeros(1))
    assert kind_of(stream.getvalue()) == ("an npz archive", None)
    for content in (b"a fox in the snow", b"\x01\x02\x03", "ein Bär".encode(), b"\0" * 20):
        assert kind_of(content) is None
