"""The only file I/O of ditq: every read explains its failure, every write is whole or absent.

A write goes to a temporary name beside its target and is renamed when it is complete, so that a kill at any
moment leaves the old file or the new one, never half of one. Nothing here unpickles.
"""

import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from ditq.core.errors import UserError


class Figure(Protocol):
    """What matplotlib's figures can do, as far as writing them needs it."""

    def savefig(self, fname: Path) -> object:
        """Writes the figure to a file."""
        ...


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path`, with its suffix, that replaces `path` when the block succeeds.

    Folders are made as needed. On any failure, an interrupt included, the temporary file is removed and `path`
    is as it was. Raises UserError when the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
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
    """Writes `text` as UTF-8, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; NaN and infinity are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_npz(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as an uncompressed npz, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Writes one array as npy, atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def write_safetensors(
    path: str | Path, arrays: Mapping[str, mx.array], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes named arrays as safetensors, atomically; metadata values are strings, as the format wants."""
    with replacing(path) as temporary:
        mx.save_safetensors(str(temporary), dict(arrays), {"format": "mlx", **(metadata or {})})


def write_png(path: str | Path, image: np.ndarray, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a uint8 picture (height, width, 3) as PNG, atomically, with `metadata` as UTF-8 text chunks."""
    info = PngInfo()
    for key, value in (metadata or {}).items():
        info.add_itxt(key, value)
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG", pnginfo=info)


def write_figure(path: str | Path, figure: Figure) -> None:
    """Writes a figure in the format of the path's suffix, atomically."""
    with replacing(path) as temporary:
        figure.savefig(temporary)


def free_bytes(folder: str | Path) -> int:
    """Free bytes on the disk of a folder that may not be there yet."""
    folder = Path(folder).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def remove(*paths: Path) -> None:
    """Removes files and whole folders; what is not there is no error."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file."""
    return _reading(path, lambda p: p.read_text(encoding="utf-8"), UnicodeDecodeError, "UTF-8 text")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file."""
    return _reading(path, lambda p: json.loads(p.read_text(encoding="utf-8")), ValueError, "JSON")


def check_kind(meta: Any, path: str | Path, kind: str, version: int, made_by: str) -> dict[str, Any]:
    """`meta`, the header of the file at `path`, if it names this kind and version; else UserError.

    `made_by` is the step that writes such files. A `meta` that is no JSON object has neither kind nor version.
    """
    found = (meta.get("kind"), meta.get("version")) if isinstance(meta, dict) else (None, None)
    if found != (kind, version) or isinstance(found[1], bool):
        expected = f"{kind} version {version}, as {made_by} writes"
        raise UserError(str(path), got=f"{found[0]} version {found[1]}", expected=expected)
    return meta


def read_stored_json(path: str | Path, kind: str, version: int, made_by: str) -> dict[str, Any]:
    """The object of a JSON file of this kind and version. Raises UserError for any other file."""
    return check_kind(read_json(path), path, kind, version, made_by)


def stored_meta(
    arrays: Mapping[str, np.ndarray], path: str | Path, kind: str, version: int, made_by: str
) -> dict[str, Any]:
    """What the `__meta__` of an npz file's arrays says beside kind and version.

    Raises UserError when it is missing, no JSON, or of another kind or version.
    """
    try:
        meta = json.loads(str(arrays.get("__meta__", "{}")))
    except json.JSONDecodeError as error:
        raise UserError(str(path), got="a __meta__ that is not JSON", expected=kind) from error
    check_kind(meta, path, kind, version, made_by)
    return {name: value for name, value in meta.items() if name not in ("kind", "version")}


def read_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an npz file by name; object arrays are refused, so nothing is ever unpickled.

    With `names` only these are read from the disk, and one that is not there is an error.
    """

    def read(p: Path) -> dict[str, np.ndarray]:
        with open(p, "rb") as file:  # given a path, NumPy leaves a cut archive open
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an npz archive")
            return {name: archive[name] for name in (archive.files if names is None else names)}

    return _reading(
        path, read, (ValueError, EOFError, KeyError, zipfile.BadZipFile), "an npz archive of plain arrays"
    )


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an npy file."""
    return _reading(
        path, lambda p: np.load(p, allow_pickle=False), (ValueError, EOFError), "a plain npy array"
    )


def read_safetensors(path: str | Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    """The arrays (read lazily, when first used) and the metadata of a safetensors file."""

    def read(p: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
        _check_safetensors_size(p)
        return mx.load(str(p), format="safetensors", return_metadata=True)  # pyright: ignore[reportReturnType]

    return _reading(path, read, (ValueError, RuntimeError), "a complete safetensors file")


def read_image(path: str | Path) -> tuple[np.ndarray, dict[str, str]]:
    """A picture as uint8 (height, width, 3), and its text metadata."""

    def read(p: Path) -> tuple[np.ndarray, dict[str, str]]:
        with Image.open(p) as image:
            text = {str(k): str(v) for k, v in getattr(image, "text", {}).items()}
            return np.asarray(image.convert("RGB")), text

    return _reading(path, read, (UnidentifiedImageError, ValueError), "a picture")


def _reading(path: str | Path, read: Callable[[Path], Any], malformed: Any, expected: str) -> Any:
    path = Path(path)
    try:
        return read(path)
    except FileNotFoundError as error:
        raise UserError(str(path), got="no such file", expected=expected) from error
    except IsADirectoryError as error:
        raise UserError(str(path), got="a folder", expected=expected) from error
    except malformed as error:
        raise UserError(str(path), got=f"a file that cannot be read ({error})", expected=expected) from error
    except OSError as error:
        raise UserError(str(path), got=error.strerror or error, expected=expected) from error


def _check_safetensors_size(path: Path) -> None:
    """Compares the file's length with what its header promises: loading is lazy, so a cut file would fail later."""
    with open(path, "rb") as file:
        length = file.read(8)
        size = int.from_bytes(length, "little")
        total = os.fstat(file.fileno()).st_size
        if len(length) < 8 or size > total - 8:
            raise ValueError(f"its header is cut off at {total:,} bytes")
        header = json.loads(file.read(size))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + size + max(ends, default=0) != total:
        raise ValueError(
            f"it holds {total:,} bytes of {8 + size + max(ends, default=0):,}; copy or download it again"
        )


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        str(path),
        got=f"cannot be written ({error.strerror or error})",
        remedy="choose another place or free some space",
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
