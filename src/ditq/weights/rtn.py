"""Round-to-nearest: what every other method is measured by."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from jaxtyping import Float32

from ditq.core import affine
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights.block_error import block_error, held_out_rows, stream_powers
from ditq.weights.checks import check_problem, finite
from ditq.weights.columns.hessian import Moments
from ditq.weights.cost import Work
from ditq.weights.input_grids import inputs_of, static_grids
from ditq.weights.problem import BlockProblem, BlockResult, InputsUsed, OnIteration, silent


@dataclass(frozen=True)
class RTN:
    """Each weight to its nearest code, in the MSE-optimal range or in the least one that holds every weight."""

    search: bool = field(default=True, metadata={"help": "look for the range with the least squared error"})

    streams: ClassVar[InputsUsed] = "none"
    by_layer: ClassVar[bool] = True

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids, and MSE-optimal input grids, if they were not given."""
        check_problem(problem)
        weights = {
            path: QuantizedWeight(
                *affine.round_to_nearest(problem.weight(path), spec, self.search), spec, problem.smooth(path)
            )
            for path, spec in problem.specs.items()
        }
        inputs = inputs_of(problem)
        _, held_out = held_out_rows(problem)
        error = block_error(problem, weights, inputs, held_out, stream_powers(problem))
        finite(error, problem.path, "an error of round-to-nearest")
        report = {"error_rounding": error, "error": error, "kept_rounding": True, "losses": []}
        return BlockResult(weights, static_grids(inputs, weights), report)

    def solve(
        self,
        weight: Float32[np.ndarray, "out columns"],
        moments: Moments | None,
        spec: Spec,
        path: str,
    ) -> tuple[QuantizedWeight, dict[str, Any]]:
        """One matrix on its grid, and how far that moved it, a norm by a norm; inputs are not looked at.

        Raises UserError for a weight that is not finite.
        """
        if not np.isfinite(np.vdot(weight, weight)):
            got = "values that are not finite" if not np.isfinite(weight).all() else "values beyond 1e19"
            raise UserError(f"{path}: weight", got=got, expected="finite numbers")
        rounded = QuantizedWeight(*affine.round_to_nearest(mx.array(weight), spec, self.search), spec)
        difference = np.linalg.norm(np.array(rounded.values()) - weight)
        moved = float(difference / max(np.linalg.norm(weight), 1e-30))
        return rounded, {"method": "RTN", "weight_error": moved}

    def cost(self, work: Work) -> Cost:
        """The search for ranges; with `search` off, nothing to speak of."""
        return work.search if self.search else Cost()
