"""Rounding to nearest: what every other method is measured by."""

from dataclasses import dataclass, field

from ditq.core import affine
from ditq.core.quantized import QuantizedWeight
from ditq.weights.block_error import block_error, held_out_rows, stream_powers
from ditq.weights.input_grids import inputs_of, static_grids
from ditq.weights.problem import BlockProblem, BlockResult, OnIteration, silent


@dataclass(frozen=True)
class RTN:
    """Each weight to its nearest code, in the MSE-optimal range or in the least one that holds every weight."""

    search: bool = field(default=True, metadata={"help": "look for the range with the least squared error"})

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids, and MSE-optimal input grids, if they were not given."""
        weights = {
            path: QuantizedWeight(
                *affine.round_to_nearest(problem.weight(path), spec, self.search), spec, problem.smooth(path)
            )
            for path, spec in problem.specs.items()
        }
        inputs = inputs_of(problem)
        _, judged = held_out_rows(problem.rows, problem.seed)
        error = block_error(problem, weights, inputs, judged, stream_powers(problem))
        report = {"error_rounding": error, "error": error, "kept_rounding": True, "losses": []}
        return BlockResult(weights, static_grids(inputs, weights), report)
