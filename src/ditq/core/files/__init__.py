"""The only file I/O of ditq: every read explains its failure, every write is whole or absent.

A write goes to a temporary name beside its target and is renamed when it is complete, so that a kill at any
moment leaves the old file or the new one, never half of one (`writing`, `leftovers`). A read refuses what is no file,
takes no more memory than the file can stand for, and says what the file is in truth (`reading`, `kinds`). Nothing here
unpickles. Names that files give are names, never paths (`names`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditq.core.errors import UserError
from ditq.core.files.arrays import read_npy, read_npz
from ditq.core.files.leftovers import remove_leftovers
from ditq.core.files.locking import lock
from ditq.core.files.names import inside, listed, name_fault
from ditq.core.files.pictures import read_image
from ditq.core.files.reading import reading
from ditq.core.files.safetensors import read_safetensors, read_safetensors_header
from ditq.core.files.text import parsed, read_json, read_text
from ditq.core.files.writing import (
    Figure,
    npz_bytes,
    npz_size,
    replacing,
    write_figure,
    write_json,
    write_npy,
    write_npz,
    write_png,
    write_safetensors,
    write_text,
)

__all__ = [
    "Figure",
    "check_kind",
    "free_bytes",
    "inside",
    "listed",
    "lock",
    "name_fault",
    "npz_bytes",
    "npz_size",
    "parsed",
    "read_image",
    "read_json",
    "read_npy",
    "read_npz",
    "read_safetensors",
    "read_safetensors_header",
    "read_stored_json",
    "read_text",
    "reading",
    "remove",
    "remove_leftovers",
    "replacing",
    "stored_meta",
    "write_figure",
    "write_json",
    "write_npy",
    "write_npz",
    "write_png",
    "write_safetensors",
    "write_text",
]


def free_bytes(folder: str | Path) -> int:
    """Free bytes on the disk of a folder that may not be there yet."""
    folder = Path(folder).absolute()
    try:
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free
    except (OSError, ValueError) as error:
        raise UserError(
            str(folder), got=f"a folder that cannot be looked at ({error})", remedy="choose another place"
        ) from error


def remove(*paths: Path) -> None:
    """Removes files and whole folders; what is not there is no error. Raises UserError for what cannot be removed."""
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            got = f"something that cannot be removed ({error.strerror or error})"
            raise UserError(
                str(path), got=got, remedy="remove it yourself, or choose another place"
            ) from error


def check_kind(meta: Any, path: str | Path, kind: str, version: int, made_by: str) -> dict[str, Any]:
    """`meta`, the header of the file at `path`, if it names this kind and version; else UserError.

    `made_by` is the step that writes such files. A `meta` that is no JSON object has neither kind nor version.
    """
    found = (meta.get("kind"), meta.get("version")) if isinstance(meta, dict) else (None, None)
    if found != (kind, version) or isinstance(found[1], bool):
        expected = f"{kind} version {version}, as {made_by} writes"
        got = f"{str(found[0])[:80]} version {str(found[1])[:80]}"
        raise UserError(str(path), got=got, expected=expected)
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
        meta = parsed(str(arrays.get("__meta__", "{}")))
    except (ValueError, RecursionError) as error:
        raise UserError(str(path), got="a __meta__ that is not JSON", expected=kind) from error
    check_kind(meta, path, kind, version, made_by)
    return {name: value for name, value in meta.items() if name not in ("kind", "version")}
