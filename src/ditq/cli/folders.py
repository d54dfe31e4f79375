"""What a command writes: held by one process at a time, on a disk with room for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ditq.core.errors import UserError
from ditq.core.files import free_bytes, lock, remove


@contextmanager
def begun(folder: Path, plan: str, anew: tuple[str, ...] | None = None) -> Iterator[None]:
    """Holds a folder (`core.files.lock`) during a run that begins with writing the file `plan` there.

    `anew` names what is removed first, as --force asks; None: nothing. A run that fails before it has finished
    anything, because a download fails for instance, takes its plan away again: what it leaves needs no --resume.
    """
    with lock(folder):
        if anew is not None:
            remove(*(folder / name for name in anew))
        there = (folder / plan).exists()
        try:
            yield
        except BaseException:
            if not there and _visible(folder) == {plan}:
                remove(folder / plan)
            raise


def _visible(folder: Path) -> set[str]:
    """The names of all files and folders in a folder, but for hidden ones, such as the lock."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def size_words(count: float) -> str:
    """Bytes in a unit in which they are not 0.0: 27.7 MB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count:,.0f} bytes"


def bytes_in(folder: Path) -> int:
    """What the files of a folder take; nothing when it is not there."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_space(folder: Path, needed: float, remedy: str) -> None:
    """Raises UserError when the disk of a folder has less room than is needed."""
    free = free_bytes(folder)
    if needed > free:
        got, expected = f"{size_words(free)} free", f"at least {size_words(needed)}"
        raise UserError(str(folder), got=got, expected=expected, remedy=remedy)


@contextmanager
def parts_begun(parts: Path, force: bool) -> Iterator[None]:
    """The same for the folder where the parts of a file wait until it is complete."""
    with begun(parts, "plan.json", tuple(_visible(parts)) if force and parts.exists() else None):
        yield
