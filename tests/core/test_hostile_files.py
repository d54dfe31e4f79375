"""Files mutated at random, of every kind that is read: a clear error or a harmless value, and never much memory."""

import io
import json
import random
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import files
from ditq.core.errors import UserError
from ditq.core.recipe import plain_recipe, recipe_from
from ditq.core.spec import Spec
from tests.core.files.crafted import npz
from tests.core.files.mutations import mutate

CASES = 150
"""Of each kind."""
MOST = 300_000_000
"""Bytes of memory that all of them together may take at their peak."""
RECIPE = plain_recipe("x", "gptq", Spec(4, True, 64)).to_json()


def peak() -> int:
    """Bytes of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def use_json(path: Path) -> None:
    json.dumps(files.read_json(path), ensure_ascii=False, allow_nan=False).encode()


def use_recipe(path: Path) -> None:
    recipe_from(files.read_json(path), "x", str(path))


def use_arrays(arrays: dict[str, np.ndarray]) -> None:
    for array in arrays.values():
        if array.dtype.kind == "U":
            str(array).encode()
        elif array.dtype.kind != "S":
            mx.eval(mx.array(array))


def use_npz(path: Path) -> None:
    arrays = files.read_npz(path)
    use_arrays(arrays)
    files.stored_meta(arrays, path, "ditq.cake", 1, "bake")


def use_safetensors(path: Path) -> None:
    mx.eval(list(files.read_safetensors(path)[0].values()))


def use_picture(path: Path) -> None:
    picture, text = files.read_image(path)
    assert picture.dtype == np.uint8 and picture.ndim == 3 and picture.nbytes < 10**8
    json.dumps(text, ensure_ascii=False).encode()


@dataclass(frozen=True)
class Kind:
    """A kind of file: how to write a valid one, and how it is read and used."""

    write: Callable[[Path], Any]
    use: Callable[[Path], Any]


def write_npz(path: Path) -> None:
    meta = '{"kind": "ditq.cake", "version": 1, "layers": 3}'
    files.write_npz(path, {"x": np.arange(6, dtype=np.float32), "n": np.int64(3), "__meta__": np.array(meta)})


KINDS = {
    "a.json": Kind(
        lambda p: files.write_json(p, {"a": [1, 2.5, None], "b": {"c": "ü"}}),
        use_json,
    ),
    "recipe.json": Kind(lambda p: files.write_json(p, RECIPE), use_recipe),
    "a.npz": Kind(write_npz, use_npz),
    "a.npy": Kind(lambda p: files.write_npy(p, np.eye(3)), lambda p: use_arrays({"": files.read_npy(p)})),
    "a.safetensors": Kind(
        lambda p: files.write_safetensors(p, {"a.b": mx.eye(3), "c": mx.ones((4,), mx.bfloat16)}, {"k": "v"}),
        use_safetensors,
    ),
    "a.png": Kind(
        lambda p: files.write_png(p, np.full((6, 5, 3), 7, np.uint8), {"prompt": "ein Fuchs"}), use_picture
    ),
    "a.txt": Kind(
        lambda p: files.write_text(p, "# two\na fox\nein Bär ❄\n"), lambda p: files.read_text(p).encode()
    ),
}


def mutated(kind: Kind, path: Path, rng: random.Random) -> Iterator[bytes]:
    """Writes one mutation after the other to `path`; yields what was written."""
    for _ in range(CASES):
        kind.write(path)
        mutate(path, rng)
        yield path.read_bytes()


@pytest.mark.parametrize(("name", "kind"), KINDS.items(), ids=KINDS.keys())
def test_mutated_files_are_told_or_harmless(tmp_path, name, kind):
    path, refused = tmp_path / name, 0
    kind.write(path)
    try:
        kind.use(path)
    except UserError as error:
        raise AssertionError("the valid file is refused") from error
    before = peak()
    for content in mutated(kind, path, random.Random(name)):
        try:
            kind.use(path)
        except UserError as error:
            refused += 1
            message = str(error)
            assert name in message or "x" in message, message
            assert len(message) < 1000 and message.isprintable(), message
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} escapes for {content!r}") from error
    assert refused > CASES // 5
    assert peak() - before < MOST


def test_headers_that_promise_terabytes_take_no_memory(tmp_path):
    before = peak()
    stream = io.BytesIO()
    np.save(stream, np.zeros(2))
    big = stream.getvalue().replace(b"(2,), }                 ", b"(5000000000000,), }     ")
    for path, read in (
        (npz(tmp_path / "a.npz", x=big), files.read_npz),
        (tmp_path / "a.npy", files.read_npy),
    ):
        if path.suffix == ".npy":
            path.write_bytes(big)
        with pytest.raises(
            UserError, match="it declares shape .5000000000000,., 40.0 TB, and holds 16 bytes"
        ):
            read(path)
    assert peak() - before < MOST
