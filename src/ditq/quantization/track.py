"""The weight track: one method on one grid for the layers of all blocks, and its folder."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import ditq
from ditq.activations import ActivationTable
from ditq.calibration import BlockCache
from ditq.calibration.block_cache import Streams
from ditq.checkpoint.npz_run.run import KIND, VERSION
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import write_json
from ditq.core.spec import Spec
from ditq.models.mmdit import MMDiT
from ditq.quantization.blocks import BLOCK, OnBlock, OnIteration, cache_digest, through_blocks
from ditq.weights import BlockProblem, Method, block_specs

CONTENTS = ("plan.json", "config.json", "weights", "adaround_loss.png", "adaround_errors.png")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


@dataclass(frozen=True)
class WeightTrack:
    """What is asked of the weights: a method, a grid, and the activations to expect."""

    method: Method
    spec: Spec
    activation_bits: int = 8
    """Of learned static grids; 16: activations stay as they are."""
    table: ActivationTable | None = None
    """Grids and smoothing factors of the activation track, in place of learned grids."""
    table_digest: str = ""
    blocks: tuple[int, ...] | None = None
    """Only these are quantized; None: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        bits = self.activation_bits
        if not 4 <= bits <= 8 and bits != 16:
            raise UserError(
                "--bits-a", got=bits, expected="from 4 to 8, or 16 to leave activations as they are"
            )

    def chosen(self, count: int) -> tuple[int, ...]:
        """The blocks to quantize of a model of `count`. Raises UserError for one that is not there."""
        chosen = tuple(range(count)) if self.blocks is None else self.blocks
        wrong = [number for number in chosen if not 0 <= number < count]
        if wrong or not chosen:
            raise UserError("--blocks", got=wrong[0] if wrong else "none", expected=f"from 0 to {count - 1}")
        return tuple(sorted(set(chosen)))

    def recipe(self) -> dict[str, Any]:
        """The settings as JSON: what a resumed run must share."""
        grid = {
            "bits_w": self.spec.bits,
            "group_size": self.spec.group_size,
            "symmetric": self.spec.symmetric,
        }
        activations = {"bits_a": self.activation_bits, "quant_config": self.table_digest or None}
        method = {"method": type(self.method).__name__.lower(), **asdict(self.method)}  # pyright: ignore
        return {**grid, **activations, **method, "seed": self.seed}


def quantize_weights(
    mmdit: MMDiT,
    cache: BlockCache,
    track: WeightTrack,
    folder: Path,
    resume: bool = False,
    on_iteration: OnIteration = lambda block, iteration, loss: None,
    on_block: OnBlock = lambda block, report: None,
) -> dict[str, Any]:
    """Fills `folder` with weights/mm{N}.npz and, when all are there, config.json, whose content it returns.

    A block's file is written when its method is done, whole or not at all. A resumed run passes over finished blocks
    and computes again what they hand on: its files are bit for bit those of an unbroken run. Raises UserError for a
    folder begun with other settings or another cache.
    """
    cache.check_model(mmdit)
    chosen = track.chosen(cache.blocks)
    begun = {"kind": KIND, "version": VERSION, "model": cache.meta["model"], "cache": cache_digest(cache)}
    begun |= {"recipe": track.recipe(), "quantized_blocks": list(chosen)}
    plan.begin(folder / "plan.json", begun, resume)
    run = through_blocks(
        cache,
        dict.fromkeys(chosen, track.method),
        partial(block_problem, mmdit, cache, track),
        folder,
        max(chosen) + 1,
        on_iteration=on_iteration,
        on_block=on_block,
    )
    config = _config(begun, track, cache, run.reports)
    write_json(folder / "config.json", config)
    return config


def block_problem(
    mmdit: MMDiT,
    cache: BlockCache,
    track: WeightTrack,
    number: int,
    inputs: Streams,
    quantized_inputs: Streams,
    targets: Streams,
) -> BlockProblem:
    """What a method is asked about one block."""
    block, path = mmdit.multimodal_transformer_blocks[number], BLOCK.format(number)
    return BlockProblem(
        block=block,
        path=path,
        modulation=cache.modulation(mmdit, number),
        inputs=inputs,
        quantized_inputs=quantized_inputs,
        targets=targets,
        timesteps=cache.timesteps,
        specs=block_specs(block, path, track.spec),
        activation_bits=track.activation_bits,
        table=track.table,
        seed=track.seed + number,
    )


def _config(
    begun: dict[str, Any], track: WeightTrack, cache: BlockCache, reports: list[dict[str, Any]]
) -> dict[str, Any]:
    seconds = [report["seconds"] for report in reports]
    return {
        **begun,
        "producer": f"ditq {ditq.__version__}",
        "bits_w": track.spec.bits,
        "bits_a": track.activation_bits,
        "iterations": getattr(track.method, "iterations", 0),
        "scale": "step",
        "blocks": cache.blocks,
        "rows": len(cache),
        "error_rounding": float(np.mean([report["error_rounding"] for report in reports])),
        "error": float(np.mean([report["error"] for report in reports])),
        "kept_rounding": [report["block"] for report in reports if report["kept_rounding"]],
        "seconds": None if None in seconds else round(sum(seconds), 2),
        "per_block": reports,
    }
