"""A folder held by one process at a time: a second one is told who holds it, and a killed one holds nothing.

The file LOCK tells process and machine; the system's own lock on it (`flock`) goes with the process however that ends,
so that a file that is left over is known to be stale. Where a file system has no such locks, the process number tells.
"""

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files.leftovers import process_runs, remove_leftovers

LOCK = ".ditq-lock"
_HELD: dict[Path, int] = {}
"""Folders that this process holds, with how often: a step may run inside another on the same folder."""
_GUARD = threading.Lock()


@contextmanager
def lock(folder: str | Path) -> Iterator[None]:
    """Holds `folder`, which is made if need be, until the block ends, and removes what killed runs left in it.

    `with lock(args.out): ...` around a step, after --dry-run and before --force removes anything. A process may hold
    a folder several times. Raises UserError, with process and machine, when another process holds it, and for a folder
    that cannot be written.
    """
    folder, made = Path(folder), None
    try:
        if not folder.exists():
            folder.mkdir(parents=True)
            made = folder
        key = folder.resolve()
        with _GUARD:
            handle = None if key in _HELD else _acquired(folder)
            _HELD[key] = _HELD.get(key, 0) + 1
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        got, remedy = f"a folder that cannot be written ({reason})", "choose another place"
        raise UserError(str(folder), got=got, remedy=remedy) from error
    try:
        remove_leftovers(folder)
        yield
    finally:
        with _GUARD:
            _HELD[key] -= 1
            if not _HELD[key]:
                del _HELD[key]
        if handle is not None:
            _release(folder / LOCK, handle)
        if made is not None:
            with suppress(OSError):  # it holds something
                made.rmdir()


def _acquired(folder: Path) -> int:
    """The open lock file, which is this process's. Raises UserError when it is another's."""
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _take(folder, handle)
            if _is_at(path, handle):
                os.ftruncate(handle, 0)
                os.pwrite(handle, json.dumps(_myself()).encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has just removed it


def _take(folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        locks = True
    except BlockingIOError as error:
        raise _in_use(folder, _holder(handle)) from error
    except OSError:  # a file system without locks
        locks = False
    holder = _holder(handle)
    here = holder.get("host") == socket.gethostname()
    if holder and holder.get("pid") != os.getpid() and not (here and (locks or not _runs(holder))):
        raise _in_use(folder, holder)


def _in_use(folder: Path, holder: dict[str, Any]) -> UserError:
    by = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'this machine')}"
    since = f", since {holder['since']}" if "since" in holder else ""
    remedy = "wait for it, or choose another place"
    if holder.get("host") not in (None, socket.gethostname()):
        remedy += f"; if it runs no more, remove {folder / LOCK}"
    return UserError(str(folder), got=f"a folder that another run is using ({by}{since})", remedy=remedy)


def _holder(handle: int) -> dict[str, Any]:
    """Who wrote the lock file; empty for one that nobody has written yet, or that cannot be read."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _runs(holder: dict[str, Any]) -> bool:
    return isinstance(holder.get("pid"), int) and process_runs(holder["pid"])


def _is_at(path: Path, handle: int) -> bool:
    """Whether the open file is still the one that the path names."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _myself() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _release(path: Path, handle: int) -> None:
    with suppress(OSError):
        if _is_at(path, handle):
            path.unlink()
    os.close(handle)
