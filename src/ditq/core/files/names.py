"""Names that stand in files: they name something in one folder, and never lead out of it."""

from pathlib import Path
from typing import Any

from ditq.core.errors import UserError

LONGEST = 240
"""Bytes of a file's name at most: file systems take 255, and a write adds its own prefix."""
PARTIAL = ".ditq-partial-"
"""What the name of a file that is being written begins with."""
DOWNLOADS = (".part", ".partial", ".crdownload", ".download", ".incomplete", ".tmp", "~")
"""Ends of names of files that something else is still writing, or kept as a backup."""


def inside(folder: str | Path, name: Any, where: str) -> Path:
    """The path of `name` in `folder`, for a name that a file gives: `inside(folder, shard, f"{index}: weight_map")`.

    Raises UserError that begins with `where` for what is no plain file name: a path, `..`, another type, a control
    character, more than LONGEST bytes. A link in the folder is the user's own and is followed.
    """
    fault = name_fault(name)
    if fault:
        raise UserError(where, got=fault, expected="the plain name of a file in the same folder")
    return Path(folder) / name


def name_fault(name: Any) -> str | None:
    """What keeps a value from being a plain file name, in words; None for a plain one."""
    if not isinstance(name, str):
        return f"a {type(name).__name__}, not a name"
    shown = repr(name if len(name) <= 60 else f"{name[:57]}...")
    if not name or name in (".", "..") or name.strip() != name:
        return shown
    if "/" in name or "\\" in name:
        return f"the path {shown}"
    if not name.isprintable():  # lone halves of surrogate pairs are not printable either
        return f"{shown}, which holds characters that no name should"
    if len(name.encode()) > LONGEST:
        return f"a name of {len(name.encode())} bytes, {shown}"
    return None


def listed(folder: str | Path, pattern: str) -> list[Path]:
    """The files of a folder that match a glob, sorted; hidden ones and unfinished ones are left out.

    What a killed write, a download or the system left beside the files is never taken for one of them. A folder that
    is not there holds none.
    """
    found = Path(folder).glob(pattern)
    return sorted(
        path
        for path in found
        if not path.name.startswith(".") and not _unfinished(path.name) and path.is_file()
    )


def _unfinished(name: str) -> bool:
    return name.endswith(DOWNLOADS)
