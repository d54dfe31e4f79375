"""A folder that is written to is new, empty, or one that the same function began."""

from contextlib import suppress
from pathlib import Path

from ditq.core.errors import UserError


def check_own(argument: str, folder: str | Path | None, maker: str, *marks: str) -> None:
    """Raises UserError for a folder with files of another maker: what is written would lie among them.

    `marks` are the files that `maker` begins with, one of which tells its own folders. Hidden files do not count, nor
    does a folder that cannot be looked at: writing will say so.
    """
    if folder is None:
        return
    with suppress(OSError):
        place = Path(folder)
        held = sorted(entry.name for entry in place.iterdir() if _holds(entry)) if place.is_dir() else []
        if held and not any((place / mark).exists() for mark in marks):
            raise UserError(
                argument,
                got=f"{folder}, a folder that holds {held[0]}" + (" and more" if len(held) > 1 else ""),
                expected=f"a new or empty folder, or one that {maker} began",
                remedy="name another folder",
            )


def _holds(entry: Path) -> bool:
    """Whether it is, or has in it, a file that is not hidden."""
    if entry.name.startswith("."):
        return False
    return not entry.is_dir() or any(
        not path.name.startswith(".") and path.is_file() for path in entry.rglob("*")
    )
