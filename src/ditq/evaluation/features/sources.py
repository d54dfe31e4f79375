"""Where pictures come from, batch by batch: a folder of picture files, or those that an evaluation drew."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_image
from ditq.evaluation.drawing import Drawn, picture_of
from ditq.evaluation.metrics import Picture

ENDINGS = (".png", ".jpg", ".jpeg", ".gif")
"""Of picture files, in small letters."""


@dataclass(frozen=True)
class Batch:
    """Some pictures that are read when they are asked for."""

    count: int
    key: str
    """Changes when the pictures' files do (their names, lengths and times)."""
    told: str
    """What messages call these pictures."""
    read: Callable[[], Sequence[Picture]]


def pictures_in(folder: Path, least: int) -> list[Path]:
    """The picture files of a folder, not of those in it, by name.

    Raises UserError where there is no such folder, and where it holds fewer than `least` of them.
    """
    found = (
        sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS) if folder.is_dir() else []
    )
    if len(found) < least:
        got = f"{len(found)} pictures" if folder.is_dir() else "no such folder"
        raise UserError(str(folder), got=got, expected=f"{least} or more files {', '.join(ENDINGS)}")
    return found


def folder_batches(paths: Sequence[Path], batch_size: int = 16) -> Iterator[Batch]:
    """Batches of picture files, in this order; sizes may differ."""
    for start in range(0, len(paths), batch_size):
        some = paths[start : start + batch_size]
        told = f"{some[0]} to {some[-1].name}"
        yield Batch(len(some), _key(some), told, partial(_pictures, some))


def drawn_batches(drawn: Drawn) -> Iterator[Batch]:
    """The batches of a variant's pictures."""
    return folder_batches([picture_of(drawn.folder, number) for number in range(len(drawn))])


def _pictures(paths: Sequence[Path]) -> list[Picture]:
    return [read_image(path)[0] for path in paths]


def _key(paths: Sequence[Path]) -> str:
    facts = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return plan.digest(repr(facts))
