"""Post-training quantization of a model's weights, block by block.

For each block, in order: what it receives in the float model, what it receives now that the blocks before it are
quantized, and what it should return; a method decides on the codes; what the quantized block returns is what the next
one receives. So every block makes up for the errors before it, and nothing but one block is ever optimised at a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.activations import ActivationTable
from ditq.calibration import BlockCache
from ditq.calibration.blocks import Streams, run_block
from ditq.checkpoint.adaround import KIND, VERSION
from ditq.checkpoint.blocks import block_file, read_block, write_block
from ditq.core import plan
from ditq.core.artefact import write_json
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models.mmdit import MMDiT
from ditq.weights import BlockProblem, BlockResult, Method, block_specs
from ditq.weights.errors import quantized_output
from ditq.weights.grid_block import batches, take_rows
from ditq.weights.input_grids import inputs_of_result

CONTENTS = ("plan.json", "config.json", "weights", "adaround_loss.png", "adaround_errors.png")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""
BLOCK = "multimodal_transformer_blocks.{}"
CURVE = 200
"""Points of a loss curve that are kept."""

OnBlock = Callable[[int, dict[str, Any]], None]
"""Told the number of a finished block and its report."""
OnIteration = Callable[[int, int, float], None]
"""Told the block, the iteration that is over, and its loss."""


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
    reports, quantized = [], cache.streams(0)
    inputs = quantized
    for number in range(max(chosen) + 1):
        targets = cache.streams(number + 1)
        problem = block_problem(mmdit, cache, track, number, inputs, quantized, targets)
        if number in chosen:
            result = _solved(problem, track, folder, number, on_iteration)
            reports.append({"block": number, "path": problem.path, **result.report})
            on_block(number, reports[-1])
            quantized = _handed_on(problem, result)
        else:
            quantized = _handed_on(problem, None)
        inputs = targets
    config = _config(begun, track, cache, reports)
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


def cache_digest(cache: BlockCache) -> str:
    """What stands for the calibration data of a run."""
    return plan.digest(repr(sorted(cache.meta.items())), cache.pooled.tobytes())


def _solved(
    problem: BlockProblem, track: WeightTrack, folder: Path, number: int, on_iteration: OnIteration
) -> BlockResult:
    """The block's result: of an earlier run's file, or made now and written."""
    if block_file(folder, number).exists():
        weights, activations, meta = read_block(folder, number)
        return BlockResult(weights, activations or None, {**meta["report"], "seconds": None})
    started = time.perf_counter()
    result = track.method.quantize(problem, partial(on_iteration, number))
    report = {**result.report, "losses": thinned(result.report.get("losses", []))}
    write_block(folder, number, result.weights, result.activations or {}, {"report": report})
    return BlockResult(
        result.weights, result.activations, {**report, "seconds": round(time.perf_counter() - started, 2)}
    )


def _handed_on(problem: BlockProblem, result: BlockResult | None) -> Streams:
    """What the block, quantized as in `result` or float, makes of its quantized inputs."""
    parts = []
    for rows in batches(np.arange(problem.rows)):
        if result is None:
            modulation = problem.modulation[mx.array(rows)]
            streams = run_block(problem.block, take_rows(problem.quantized_inputs, rows), modulation)
        else:
            streams = quantized_output(problem, result.weights, inputs_of_result(problem, result), rows)
        mx.eval(streams.image, streams.text)
        parts.append(streams)
    return Streams(*(mx.concatenate([getattr(part, name) for part in parts]) for name in ("image", "text")))


def thinned(losses: Sequence[float]) -> list[float]:
    """A curve of at most `CURVE` points, each the mean of a stretch."""
    pieces = np.array_split(np.asarray(losses, np.float64), min(CURVE, len(losses))) if losses else []
    return [float(f"{piece.mean():.6g}") for piece in pieces]


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
