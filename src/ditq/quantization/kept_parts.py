"""What an earlier run left of its finished parts: used where it is whole, made again where it is not."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ditq.checkpoint.npz_run.block_file import StaticGrids, Weights, read_layers, write_layers
from ditq.core.errors import UserError
from ditq.core.spec import Spec

Part = tuple[Weights, StaticGrids, dict[str, Any]]


def whole_part(
    path: Path, read: Callable[[], Part], specs: Mapping[str, Spec], told: Sequence[str] = ()
) -> Part | None:
    """What `read()` finds in the file at `path` of a part with the layers and grids `specs`; None: it is to be made.

    A file that was cut off, damaged, or holds other layers is made again, with a warning; `told` are keys that its
    report must have. A part follows from the calibration alone, so that it comes out bit for bit the same.
    """
    if not path.exists():
        return None
    try:
        weights, grids, meta = read()
    except UserError as error:
        return _again(str(error))
    if {layer: weight.spec for layer, weight in weights.items()} != dict(specs):
        return _again(f"{path}: got other layers or grids than the recipe's")
    report = meta.get("report")
    if not isinstance(report, dict) or not set(told) <= report.keys():
        return _again(f"{path}: __meta__: report: got none that is whole")
    return weights, grids, meta


def outside_part(
    path: Path,
    asked: Mapping[str, tuple[Any, Spec]],
    solve: Callable[[], tuple[Weights, dict[str, Any]]] | None,
) -> tuple[Weights, dict[str, Any]]:
    """The layers `asked` outside the blocks and their reports: what an earlier run kept at `path`, or what `solve()`
    gives, which is written there; nothing where there is nothing to solve."""
    if solve is None:
        return {}, {}
    kept = whole_part(path, lambda: read_layers(path), {layer: spec for layer, (_, spec) in asked.items()})
    if kept is not None:
        return kept[0], kept[2]["report"]
    weights, report = solve()
    write_layers(path, weights, {}, {"report": report})
    return weights, report


def _again(fault: str) -> None:
    warnings.warn(f"{fault}; this part is computed again", stacklevel=4)
