"""Files written whole or not at all: to a temporary name beside the target, which is renamed when it is complete."""

import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ditq.core.errors import DitqError, UserError
from ditq.core.files.leftovers import partial_prefix
from ditq.core.files.safetensors import read_safetensors_header

NPZ_ENTRY = 128 + 30 + 20 + 46
"""Bytes that an array of an npz takes beside its data and, twice, its name."""


class Figure(Protocol):
    """What matplotlib's figures can do, as far as writing them needs it."""

    def savefig(self, fname: Path) -> object:
        """Writes the figure to a file."""
        ...


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, with its suffix, that replaces `path` when the block succeeds.

    Folders are made as needed. On any failure, an interrupt included, the temporary file is removed and `path`
    is as it was; one that a killed process leaves is told by its name (`leftovers`). Raises UserError when the folder
    cannot be written, the disk is full, or a limit on the size of files is met.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = partial_prefix(path.stem)
        handle, name = tempfile.mkstemp(prefix=prefix, suffix=path.suffix, dir=path.parent)
    except (OSError, ValueError) as error:  # ValueError: a zero byte or half a character in the name
        raise _unwritable(path, error) from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` as UTF-8, atomically. Raises UserError for text that is no Unicode (half of a character)."""
    _check_unicode(path, text)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically. Raises DitqError that names the key of a NaN or infinity."""
    _check_finite(value, str(path))
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as an uncompressed npz, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> int:
    """How many bytes `write_npz` would write."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.tell()


def npz_size(arrays: Mapping[str, tuple[tuple[int, ...], int]]) -> int:
    """The same from shapes and the bytes of a value alone, for names of at most 255 bytes and shapes that fit a header
    of 128 bytes: beside its data an array takes that header, its entry and its line of the directory."""
    data = sum(math.prod(shape) * size for shape, size in arrays.values())
    return 22 + data + sum(NPZ_ENTRY + 2 * len(f"{name}.npy") for name in arrays)


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Writes one array as npy, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def write_safetensors(
    path: str | Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named arrays as safetensors, atomically; metadata values are strings, as the format wants."""
    for array in arrays.values():
        mx.eval(array)  # what fails here is no fault of the disk
    with replacing(path) as temporary:
        try:
            mx.save_safetensors(str(temporary), dict(arrays), {"format": "mlx", **(metadata or {})})
            read_safetensors_header(temporary)
        except (RuntimeError, UserError) as error:
            raise _unwritable(Path(path), error) from error


def write_png(path: str | Path, image: np.ndarray, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a uint8 picture (height, width, 3) as PNG, atomically, with `metadata` as UTF-8 text chunks."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        _check_unicode(f"{path}: {key}", value)
        info.add_itxt(key, value)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", pnginfo=info)


def write_figure(path: str | Path, figure: Figure) -> None:
    """Writes a figure in the format of the path's suffix, atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def _check_unicode(what: str | Path, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = ascii(text[max(error.start - 20, 0) : error.end + 20])
        remedy = "type it in a terminal that uses UTF-8"
        raise UserError(str(what), got=f"{around}, which is not UTF-8 text", remedy=remedy) from error


def _check_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise DitqError(f"{where}: got {value}; JSON has finite numbers alone")
    if isinstance(value, Mapping):
        for key, one in value.items():
            _check_finite(one, f"{where}: {key}")
    elif isinstance(value, list | tuple):
        for i, one in enumerate(value):
            _check_finite(one, f"{where}[{i}]")


def _unwritable(path: Path, error: Exception) -> UserError:
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    remedy = "choose another place or free some space"
    return UserError(str(path), got=f"a file that cannot be written ({reason})", remedy=remedy)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
