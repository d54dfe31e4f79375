"""Adds up the folders of several runs of step 2A."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ditq.core import plan
from ditq.core.errors import UserError
from ditq.diagnostics.layer_files import MANIFEST, read_layer_statistics, whole_step, write_step

SAME = ("model", "noise", "dtype", "guidance", "inputs", "sample_values", "step_keys", "sigma_map", "layers")
"""What folders must share to be merged."""


def merge_inputs(folders: Sequence[Path], output: Path, resume: bool = False) -> dict[str, Any]:
    """Fills `output` with the statistics of all folders' pictures; returns its manifest.

    Raises UserError when they do not belong together, or share a picture.
    """
    parts = [read_layer_statistics(folder / MANIFEST) for folder in folders]
    first = parts[0].manifest
    images: list[str] = []
    for folder, part in zip(folders, parts, strict=True):
        both = plan.WEIGHTS in part.manifest and plan.WEIGHTS in first  # older folders say nothing of them
        for name in (*SAME, *([plan.WEIGHTS] if both else [])):
            if part.manifest.get(name) != first.get(name):
                raise UserError(f"cannot merge {folder}: {name}", got="another than the first folder's")
        shared = set(images) & set(part.manifest["images"])
        if shared:
            remedy = "merge the shards of one run (--shard K/N), which share none"
            raise UserError(
                f"cannot merge {folder}", got=f"{len(shared)} pictures that others have", remedy=remedy
            )
        images += part.manifest["images"]
    manifest = {**first, "images": images}
    new = not (output / MANIFEST).exists()
    plan.begin(output / MANIFEST, manifest, resume)
    for step in manifest["step_keys"]:
        if not new and whole_step(output, step, manifest):
            continue
        whole = parts[0].at(step)
        for part in parts[1:]:
            for path, statistics in part.at(step).items():
                whole[path].add(statistics)
        write_step(output, step, whole, manifest)
    return manifest
