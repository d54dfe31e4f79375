"""What layers are called where no model is at hand: their labels and streams, as the files of statistics keep them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ditq.core.errors import UserError
from ditq.core.files import name_fault
from ditq.models.anatomy import Anatomy

_LONGEST_FIGURE = "negative_fraction_heatmap_{}.png"


class Named(NamedTuple):
    """How figures and tables show a layer."""

    label: str
    """A short name; the path where there is none."""
    stream: str | None = None


def names_by(anatomy: Anatomy, paths: Iterable[str]) -> dict[str, Named]:
    """The names that a model's anatomy gives its layers."""
    return {path: Named(anatomy.site(path).label, anatomy.site(path).stream) for path in paths}


def names_in(entries: Any, paths: Iterable[str]) -> dict[str, Named]:
    """The names that a file gives its layers; files of older releases give none, and paths serve as labels.

    Labels and streams stand in names of figures. Raises KeyError or TypeError for entries of another kind, and for
    what cannot stand there.
    """
    if entries is None:
        found = {path: Named(path) for path in paths}
    else:
        found = {path: Named(entries[path]["label"], entries[path]["stream"]) for path in paths}
    for path, (label, stream) in found.items():
        if not isinstance(label, str) or not isinstance(stream, str | None):
            raise TypeError(f"label and stream of {path}")
        for word in (label, stream or "all"):
            if fault := name_fault(_LONGEST_FIGURE.format(word)):
                raise TypeError(f"label or stream of {path[:80]!r}: {fault} is no file's name")
    return found


def streams(names: Mapping[str, Named]) -> list[str | None]:
    """The streams that these layers belong to, by name; None, for the others, comes last."""
    found = {name.stream for name in names.values()}
    return [*sorted(stream for stream in found if stream is not None), *([None] if None in found else [])]


def chosen(names: Mapping[str, Named], wanted: list[str]) -> list[str]:
    """The paths that `wanted` names, by path or label, in its order; "all" is all of them.

    Raises UserError for a name that no layer has.
    """
    if wanted == ["all"]:
        return list(names)
    by_name = {name.label: path for path, name in names.items()} | {path: path for path in names}
    for name in wanted:
        if name not in by_name:
            labels = [one.label for one in names.values()]
            known = ", ".join(labels[:6]) + (", ..." if len(labels) > 6 else "")
            raise UserError("--layers", got=name, expected=f"a path or label of {len(labels)}: {known}")
    return [by_name[name] for name in wanted]


def representative(names: Mapping[str, Named]) -> list[str]:
    """The first, middle and last layer of each stream: what is drawn when nothing is chosen."""
    own = [[path for path, name in names.items() if name.stream == stream] for stream in streams(names)]
    return list(dict.fromkeys(paths[i] for paths in own for i in (0, len(paths) // 2, -1)))
