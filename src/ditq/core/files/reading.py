"""The one place where files are opened to be read: what is no file is refused, and every failure is explained."""

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from tokenize import TokenError
from typing import BinaryIO, TypeVar

from ditq.core.errors import UserError
from ditq.core.files.kinds import SNIFFED, kind_of

T = TypeVar("T")
MALFORMED = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError, SyntaxError),
    *(RuntimeError, MemoryError, struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, TokenError),
)
"""What decoders raise for files that are not what they should be: NumPy, zipfile, json, Pillow and MLX."""
_NO_FILES = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def reading(
    path: str | Path,
    read: Callable[[BinaryIO], T],
    expected: str,
    limit: int | None = None,
    right: Collection[str] = (),
) -> T:
    """What `read` makes of the open file. Raises UserError, with the path, for whatever keeps it from that.

    `read` raises ValueError for content that is not as `expected` says. A file of more than `limit` bytes is not
    opened. `right` is what `kinds.kind_of` calls files of the right kind: of a damaged one the damage is told.
    """
    path = Path(path)
    try:
        size = _size(path, expected)
        if limit is not None and size > limit:
            raise UserError(
                str(path), got=in_bytes(size), expected=f"{expected} of {in_bytes(limit)} at most"
            )
        with open(path, "rb") as file:
            return read(file)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(str(path), got="no such file", expected=expected) from error
    except OSError as error:
        if error.strerror:
            raise UserError(str(path), got=error.strerror, expected=expected) from error
        raise _explained(path, error, expected, right) from error
    except MALFORMED as error:
        raise _explained(path, error, expected, right) from error


def in_bytes(size: int) -> str:
    """A number of bytes as a person says it: "12 bytes", "4.5 GB"."""
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB"), (3, "kB")):
        if size >= 10**power:
            return f"{size / 10**power:,.1f} {unit}"
    return f"{size} bytes"


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _size(path: Path, expected: str) -> int:
    """The length of a regular file; anything else is refused before it is opened, since opening a pipe waits."""
    try:
        found = os.stat(path)
    except UnicodeEncodeError as error:
        raise UserError(ascii(str(path)), got="a name that is not UTF-8", expected=expected) from error
    for test, name in _NO_FILES.items():
        if test(found.st_mode):
            remedy = None if name == "a folder" else "write it to a file first"
            raise UserError(str(path), got=name, expected=expected, remedy=remedy)
    return found.st_size


def _explained(path: Path, error: BaseException, expected: str, right: Collection[str]) -> UserError:
    """The error of a file that could not be read: what it is in truth, or else what the decoder said."""
    try:
        with open(path, "rb") as file:
            kind = kind_of(file.read(SNIFFED))
    except (OSError, ValueError):
        kind = None
    if kind is not None and kind[0] not in right:
        return UserError(str(path), got=kind[0], expected=expected, remedy=kind[1])
    if isinstance(error, MemoryError):
        reason = "more than fits in memory"
    elif isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    reason = reason if len(reason) <= 300 else f"{reason[:297]}..."
    return UserError(str(path), got=f"a file that cannot be read ({reason})", expected=expected)
