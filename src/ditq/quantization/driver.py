"""Post-training quantization of a network: the one driver of all weight methods.

The layers are quantized in the order in which they run, and each sees what those before it have become:

1. the layers that depend on prompt and timestep alone, and those that make the first state;
2. block after block: what a block receives in the float network, what it receives now that everything before it is
   quantized, and what it should return make a `BlockProblem`; a method decides on the codes; what the quantized block
   returns is what the next one receives. So every block makes up for the errors before it, and nothing but one block is
   ever optimised at a time;
3. the layers behind the last block.

Every finished part is kept in the run's folder: a run that was interrupted passes over it and ends in the same bits.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.activations import ActivationTable
from ditq.capture import swapped
from ditq.checkpoint.npz_run.block_file import block_file, read_block, write_block
from ditq.core.activation_grid import TimestepGrid
from ditq.core.quantized import QuantizedWeight
from ditq.models.base import Network
from ditq.models.state import Stream
from ditq.quantization.assignment import Assigned
from ditq.quantization.calibration import Calibration
from ditq.quantization.handed_on import handed_on, spooled
from ditq.quantization.kept_parts import outside_part, whole_part
from ditq.quantization.outside_blocks import after, before, first_state, pictures_of
from ditq.weights import BlockProblem, BlockResult
from ditq.weights.mixed import dequantized
from ditq.weights.problem import NO_BITS

CURVE = 200
"""Points of a loss curve that are kept."""
Weights = dict[str, QuantizedWeight]
OnBlock = Callable[[int, dict[str, Any]], None]
"""Receives the number of a finished block and its report."""
OnIteration = Callable[[int, int, float], None]
"""Receives the block, the iteration (or, layer by layer, the layer) that is over, and its loss."""


@dataclass(frozen=True)
class Quantized:
    """What became of the network."""

    weights: Weights
    activations: dict[str, TimestepGrid] = field(default_factory=dict)
    """Static grids of layers' inputs that were learned with the weights."""
    outside: dict[str, Any] = field(default_factory=dict)
    """Reports of the layers outside the blocks, by path."""
    blocks: list[dict[str, Any]] = field(default_factory=list)
    """Reports of the blocks, in order."""


def quantize_network(
    network: Network,
    todo: Assigned,
    calibration: Calibration,
    folder: Path,
    seed: int = 0,
    activation_bits: int = NO_BITS,
    on_iteration: OnIteration = lambda block, iteration, loss: None,
    on_block: OnBlock = lambda block, report: None,
) -> Quantized:
    """The quantized layers of `todo`, as this module describes; `folder` keeps every finished part.

    `activation_bits` are those of static input grids that methods learn with the weights where the calibration has no
    table; 16: none.
    """
    cache = calibration.cache
    cache.check_model(network)
    first = todo.phase("prepare", "begin")
    outside, told = outside_part(folder / "weights" / "before.npz", first, before(network, todo, calibration))
    float_given = cache.given(network)
    with swapped(network, dequantized(network, outside)):
        quantized_given = cache.given(network) if outside else float_given
        floats = cache.stream(0)
        quantized = {**floats, **first_state(network, todo, calibration, folder)} if outside else floats
    found = Quantized({**outside}, outside=dict(told))
    last = _last_block(todo)
    for number in range(last):
        block: Any = network.blocks[number]
        following = cache.stream(number + 1)
        problem = BlockProblem(
            block=block,
            path=todo.anatomy.blocks[number],
            anatomy=todo.anatomy,
            inputs=_read({**floats, **float_given}, block.reads),
            quantized_inputs=_read({**quantized, **quantized_given}, block.reads),
            targets=_read(following, cache.flow.read_later(number)),
            carried=cache.flow.inputs(number),
            timesteps=cache.timesteps,
            specs=todo.specs(todo.anatomy.blocks[number]),
            activation_bits=activation_bits,
            table=None if calibration.table is None else calibration.table.grids,
            seed=seed + number,
            pictures=pictures_of(cache),
        )
        result = _solved(problem, todo, folder, number, on_iteration, calibration.table)
        mx.clear_cache()  # a solver's buffers fit the layers of its block alone
        if result is not None:
            found.weights.update(result.weights)
            found.activations.update(result.activations or {})
            found.blocks.append({"block": number, "path": problem.path, **result.report})
            on_block(number, found.blocks[-1])
        if number + 1 < last or todo.phase("finish"):
            made = {**quantized, **spooled(handed_on(problem, result), folder)}
            quantized = _read(made, list(following))
        floats = following
    if todo.phase("finish"):
        ends = {**floats, **float_given}, {**quantized, **quantized_given}
        solve = after(network, todo, cache, outside, *ends)
        weights, told = outside_part(folder / "weights" / "after.npz", todo.phase("finish"), solve)
        found.weights.update(weights)
        found.outside.update(told)
    return found


def _last_block(todo: Assigned) -> int:
    """How many blocks are run: all, where something behind them is quantized, else up to the last quantized one."""
    blocks = todo.anatomy.blocks
    if todo.phase("finish"):
        return len(blocks)
    return max((number + 1 for number, block in enumerate(blocks) if todo.specs(block)), default=0)


def _read(state: Mapping[str, Stream], names: Sequence[str]) -> dict[str, Stream]:
    return {name: state[name] for name in names}


def _solved(
    problem: BlockProblem,
    todo: Assigned,
    folder: Path,
    number: int,
    on_iteration: OnIteration,
    table: ActivationTable | None,
) -> BlockResult | None:
    """The block's result, of an earlier run's file, or made now and written; None for a block that stays float."""
    method = todo.method(problem.path)
    if method is None:
        return None
    bits = problem.activation_bits if problem.activation_bits < NO_BITS else None
    path, told = block_file(folder, number), ("error_rounding", "error", "kept_rounding")
    kept = whole_part(path, lambda: read_block(folder, number, bits), problem.specs, told)
    if kept is not None:
        weights, activations, meta = kept
        return BlockResult(weights, activations or None, {**meta["report"], "seconds": None})
    started = time.perf_counter()
    result = method.quantize(problem, partial(on_iteration, number))
    report = {**result.report, "losses": thinned(result.report.get("losses", []))}
    steps = {} if table is None else table.steps(result.weights)
    write_block(folder, number, result.weights, result.activations or {}, {"report": report}, steps)
    report["seconds"] = round(time.perf_counter() - started, 2)
    return BlockResult(result.weights, result.activations, report)


def thinned(losses: Sequence[float]) -> list[float]:
    """A curve of at most `CURVE` points, each the mean of a stretch."""
    pieces = np.array_split(np.asarray(losses, np.float64), min(CURVE, len(losses))) if losses else []
    return [float(f"{piece.mean():.6g}") for piece in pieces]
