"""What a killed run leaves behind: temporary files, recognised by their names and removed by the next run."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ditq.core.files.names import PARTIAL

OLD = 24 * 3600
"""Seconds after which a temporary file is a leftover even if a process with its number runs."""


def partial_prefix(name: str) -> str:
    """How the name of a temporary file for `name` begins: it holds the process that writes it."""
    return f"{PARTIAL}{os.getpid()}-{name.encode()[:60].decode(errors='ignore')}-"


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Removes what killed writes left in a folder and in the folders directly in it, and returns what was removed.

    Files that a living process is writing stay. What cannot be looked at or removed stays too: nothing reads it.
    """
    removed = []
    for path in _partial(Path(folder)):
        with suppress(OSError):
            if not _alive(path):
                path.unlink()
                removed.append(path)
    return removed


def _partial(folder: Path) -> Iterator[Path]:
    for place in (
        folder,
        *(Path(entry) for entry in _entries(folder) if entry.is_dir(follow_symlinks=False)),
    ):
        yield from (Path(entry) for entry in _entries(place) if entry.name.startswith(PARTIAL))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (OSError, ValueError):
        return []


def _alive(path: Path) -> bool:
    """Whether the process that a temporary file's name tells may still be writing it."""
    number = path.name.removeprefix(PARTIAL).partition("-")[0]
    return number.isdecimal() and time.time() - path.stat().st_mtime < OLD and process_runs(int(number))


def process_runs(pid: int) -> bool:
    """Whether a process of this number runs on this machine."""
    if not 0 < pid < 2**31:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
