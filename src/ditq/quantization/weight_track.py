"""The weight track of the documents: a recipe of one method on one grid for the blocks, and the folder of its run."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import ditq
from ditq.activations import ActivationTable
from ditq.calibration import BlockCache
from ditq.checkpoint.npz_run.run import KIND, VERSION
from ditq.checkpoint.origin import Origin
from ditq.core.errors import UserError
from ditq.core.files import write_json
from ditq.core.recipe import Recipe, blocks_alone, plain_recipe
from ditq.core.spec import Spec
from ditq.models.anatomy import Anatomy
from ditq.models.base import Network
from ditq.quantization.assignment import assigned
from ditq.quantization.calibration import Calibration
from ditq.quantization.driver import OnBlock, OnIteration, quantize_network
from ditq.quantization.run_plan import begin_run, cache_digest
from ditq.weights import METHODS, Method
from ditq.weights.problem import NO_BITS

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
        """The numbers of the blocks to quantize, of `count`. Raises UserError for one that is not there."""
        chosen = tuple(range(count)) if self.blocks is None else self.blocks
        wrong = [number for number in chosen if not 0 <= number < count]
        if wrong or not chosen:
            raise UserError(
                "--block-numbers", got=wrong[0] if wrong else "none", expected=f"from 0 to {count - 1}"
            )
        return tuple(sorted(set(chosen)))

    @property
    def method_name(self) -> str:
        """The method's name in recipes."""
        return next(name for name, method in METHODS.items() if isinstance(self.method, method))

    def recipe(self, anatomy: Anatomy) -> Recipe:
        """The same as a recipe for a model."""
        name = self.method_name
        fields = asdict(self.method)  # pyright: ignore[reportArgumentType]
        plain = plain_recipe(name, name, self.spec, fields)
        kept = [anatomy.blocks[number] for number in self.chosen(len(anatomy.blocks))]
        return blocks_alone(plain, anatomy.blocks, kept)

    def as_json(self) -> dict[str, Any]:
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
    network: Network,
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
    cache.check_model(network)
    chosen = track.chosen(cache.blocks)
    todo = replace(
        assigned(network, track.recipe(network.anatomy)), methods={track.method_name: track.method}
    )
    begun = {"kind": KIND, "version": VERSION, "model": cache.meta["model"], "cache": cache_digest(cache)}
    begun |= {"recipe": track.as_json(), "quantized_blocks": list(chosen)}
    begin_run(folder / "plan.json", begun, network, cache, resume)
    found = quantize_network(
        network,
        todo,
        Calibration(None, cache, track.table),
        folder,
        track.seed,
        track.activation_bits if track.table is None else NO_BITS,
        on_iteration,
        on_block,
    )
    config = {**_config(begun, track, cache, found.blocks), "made_from": asdict(Origin.of(network))}
    write_json(folder / "config.json", config)
    return config


def _config(
    begun: dict[str, Any], track: WeightTrack, cache: BlockCache, reports: list[dict[str, Any]]
) -> dict[str, Any]:
    seconds = [report["seconds"] for report in reports]
    return {
        **begun,
        "producer": f"ditq {ditq.__version__}",
        "calibration_prompts": Calibration(None, cache).prompts,
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
