"""What the pipeline tells of its blocks: blocks.json and the two figures of learned rounding."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ditq.cli.adaround_optimize import write_figures
from ditq.core.files import read_json, write_json
from ditq.core.recipe import Recipe
from ditq.weights import AdaRound

NAME = "blocks.json"


def write_blocks(
    folder: Path, recipe: Recipe, bits_a: int | str, rows: int, reports: list[dict[str, Any]]
) -> dict[str, Any]:
    """Writes blocks.json and the figures into `folder`, and returns the content of the first.

    `reports` are those of the blocks in order, `rows` the samples of each block, held-out ones among them, and
    `bits_a` the bits of the inputs as a name shows them.
    """
    method, spec = AdaRound(**recipe.methods["adaround"]), recipe.rules[-1].spec
    config = {
        "bits_w": spec.bits if spec else 16,
        "bits_a": bits_a,
        "iterations": method.iterations,
        "rows": rows,
        "recipe": asdict(method),
        "error_rounding": float(np.mean([report["error_rounding"] for report in reports])),
        "error": float(np.mean([report["error"] for report in reports])),
        "per_block": reports,
    }
    write_json(folder / NAME, config)
    write_figures(folder, config)
    return config


def read_blocks(folder: Path) -> dict[str, Any]:
    """The content of blocks.json."""
    return read_json(folder / NAME)
