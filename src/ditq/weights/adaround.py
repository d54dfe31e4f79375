"""AdaRound, block by block: learned rounding of weights, together with learned grids of the layers' inputs.

It begins at GPTQ's codes, which are most of the way and cost next to nothing beside the learning. Nagel et al. 2020
(arXiv 2004.10568), on whole blocks as in BRECQ (arXiv 2102.05426), with QDrop's mixing (arXiv 2203.05740) and LSQ's
gradients (arXiv 1902.08153), as TaQ-DiT (arXiv 2411.14172) joins them. docs/methods.md says what differs, and why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.models.state import SomeRows
from ditq.weights.block_error import block_error, held_out_rows, stream_powers
from ditq.weights.checks import check_problem, finite
from ditq.weights.cost import ON_GRID, Work
from ditq.weights.flips import flipped
from ditq.weights.input_grids import InputGrids, inputs_of, static_grids
from ditq.weights.layerwise import SequentialGPTQ
from ditq.weights.problem import BlockProblem, BlockResult, InputsUsed, OnIteration, silent
from ditq.weights.reconstruction import LOOKS, Learned, Reconstruction
from ditq.weights.soft_rounding import Parts, Rounding, start, start_from

BOUNDS = (
    ("iterations", 0, np.inf),
    ("batch_size", 1, np.inf),
    ("lr", 0, np.inf),
    ("lr_scale", 0, np.inf),
    ("penalty", 0, np.inf),
    ("warmup", 0, 1),
    ("beta_start", 2, np.inf),
    ("beta_end", 1, np.inf),
    ("drop", 0, 1),
    ("flips", 0, np.inf),
    ("flip_pull", 0, np.inf),
    ("gptq", 0, 1),
)
"""Of AdaRound's fields: the least and the greatest value."""
PER_WEIGHT = 60
"""Element-wise operations of an iteration for each weight: rounding, its gradient, Adam."""
COPIES = 14
"""Float32 arrays as large as a block's weights: the float weight, its two codes, parts, values, gradients, Adam's."""
KEPT = 13
"""Arrays as large as the layers' inputs that are kept for the gradients, or by MLX for the next ones."""
JUDGEMENTS = 3
"""Passes over all rows for the errors of rounding and of both starts, beside those of the tuning."""

Weights = dict[str, QuantizedWeight]
Begun = tuple[dict[str, Rounding], dict[str, Parts]]
"""The two codes of every weight, and the parts to begin with, by layer."""


@dataclass(frozen=True)
class AdaRound:
    """Learned rounding; `quantize` never returns a block that is worse than round-to-nearest."""

    iterations: int = field(default=1000, metadata={"help": "optimiser steps per block"})
    batch_size: int = field(default=16, metadata={"help": "calibration rows per step"})
    lr: float = field(default=1e-2, metadata={"help": "Adam's rate for the rounding"})
    lr_scale: float = field(default=1e-3, metadata={"help": "Adam's rate for the inputs' grids"})
    penalty: float = field(default=1.0, metadata={"help": "weight of the pull towards whole codes"})
    warmup: float = field(default=0.2, metadata={"help": "part of the run without that pull"})
    beta_start: float = field(default=20.0, metadata={"help": "its exponent when it begins"})
    beta_end: float = field(default=2.0, metadata={"help": "its exponent at the end"})
    drop: float = field(
        default=0.5, metadata={"help": "share of values left unquantized at each step (QDrop)"}
    )
    flips: int = field(default=0, metadata={"help": "sweeps at the end that flip single codes and pairs"})
    flip_pull: float = field(
        default=0.3, metadata={"help": "how strongly these keep to the float weights, by their inputs"}
    )
    gptq: float = field(
        default=0.5,
        metadata={
            "help": "share of GPTQ's codes in the start; 0 starts at the weights themselves, without GPTQ"
        },
    )

    streams: ClassVar[InputsUsed] = "both"
    by_layer: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name, least, most in BOUNDS:
            value = getattr(self, name)
            if not least <= value <= most:  # a NaN is outside too
                expected = f"from {least} to {most}" if most < np.inf else f"a number from {least} up"
                raise UserError(f"AdaRound's {name}", got=value, expected=expected)

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids, and the input grids learned with them, if they were not given.

        The best of three on the held-out rows: what was learned, what it began with, and round-to-nearest.
        """
        check_problem(problem)
        used, held_out = held_out_rows(problem)
        powers, inputs = stream_powers(problem), inputs_of(problem)

        def error_on(rows: SomeRows, weights: Weights, grids: InputGrids = inputs) -> float:
            return block_error(problem, weights, grids, rows, powers)

        nearest = _by_part({path: start(problem.weight(path), spec) for path, spec in problem.specs.items()})
        rounded = hardened(problem, *nearest)
        of_rounding = [
            finite(error_on(rows, rounded), problem.path, "an error of round-to-nearest")
            for rows in (held_out, used)
        ]
        (roundings, parts), unit = self._begun(
            problem, nearest, lambda weights: error_on(used, weights), of_rounding[1]
        )
        first = hardened(problem, roundings, parts)
        reconstruction = Reconstruction(problem, roundings, inputs, powers, unit, self)

        def whole(learned: Learned) -> tuple[Weights, InputGrids]:
            return hardened(problem, roundings, learned["parts"]), reconstruction.inputs(learned)

        told = unit / max(of_rounding[1], 1e-30)  # losses are told relative to rounding's error
        learned, losses = reconstruction.run(
            parts,
            used,
            lambda iteration, loss: on_iteration(iteration, told * loss),
            lambda learned: error_on(used, *whole(learned)),
        )
        flip_report = {}
        if self.flips:
            parts, errors = flipped(
                problem, roundings, learned["parts"], reconstruction.inputs(learned),
                used, powers, self.flips, self.flip_pull,
            )  # fmt: skip
            learned, flip_report = {**learned, "parts": parts}, {"error_flips": errors}
        candidates = {"learned": whole(learned), "start": (first, inputs), "rounding": (rounded, inputs)}
        errors = {name: error_on(held_out, *candidates[name]) for name in ("learned", "start")}
        errors["rounding"] = of_rounding[0]
        # the simplest first, so that what does not win is not kept; a NaN wins nothing
        kept = min(reversed(candidates), key=lambda name: np.nan_to_num(errors[name], nan=np.inf))
        weights, chosen = candidates[kept]
        report = {
            **{f"error_{name}": error if np.isfinite(error) else None for name, error in errors.items()},
            "error": errors[kept],
            "kept": kept,
            "kept_rounding": kept == "rounding",
            "flipped": _flipped(rounded, weights),
            "rows_optimised": len(used),
            "rows_judged": len(held_out),
            "losses": [told * loss for loss in losses],
            **flip_report,
        }
        return BlockResult(weights, static_grids(chosen, weights), report)

    def _begun(
        self, problem: BlockProblem, nearest: Begun, error_of: Callable[[Weights], float], rounding: float
    ) -> tuple[Begun, float]:
        """Where the learning begins, and the error there: at GPTQ's codes, or at the weights if these are no better."""
        if self.gptq:
            solved = SequentialGPTQ().quantize(problem).weights
            error = error_of(solved)
            if error < rounding:
                begun = {
                    path: start_from(problem.weight(path), one, self.gptq) for path, one in solved.items()
                }
                return _by_part(begun), error
        return nearest, rounding

    def cost(self, work: Work) -> Cost:
        """GPTQ's and the search for ranges, errors on all rows, and iterations: a run of the block on a batch, twice
        its products for the gradients, and what is done to each weight."""
        batch = min(self.batch_size, work.rows)
        begun = SequentialGPTQ().cost(work) if self.gptq else Cost()
        step = Cost(
            rows=3 * batch * work.share,
            values=PER_WEIGHT * work.weights + 2 * ON_GRID * batch * work.inputs,
            memory=4 * (COPIES * work.weights + KEPT * batch * work.inputs),
        )
        return begun + work.search + work.passes(JUDGEMENTS + LOOKS) + step.times(self.iterations)


def hardened(problem: BlockProblem, roundings: Mapping[str, Rounding], parts: Mapping[str, Parts]) -> Weights:
    """Every layer with the nearer of its two codes."""
    return {
        path: rounding.hardened(parts[path], problem.smooth(path)) for path, rounding in roundings.items()
    }


def _by_part(begun: Mapping[str, tuple[Rounding, Parts]]) -> Begun:
    return {path: one for path, (one, _) in begun.items()}, {path: part for path, (_, part) in begun.items()}


def _flipped(one: Mapping[str, QuantizedWeight], other: Mapping[str, QuantizedWeight]) -> float:
    """The share of codes that differ."""
    differing = sum(int(np.array(one[path].codes != other[path].codes).sum()) for path in one)
    return differing / max(1, sum(weight.codes.size for weight in one.values()))
