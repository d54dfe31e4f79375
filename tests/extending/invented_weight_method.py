"""A weight method in one file: each weight to the nearest power-of-two multiple of the least step."""

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from ditq.core.quantized import QuantizedWeight
from ditq.weights.block_error import block_error, held_out_rows, stream_powers
from ditq.weights.cost import Cost
from ditq.weights.input_grids import inputs_of, static_grids
from ditq.weights.problem import BlockResult, silent


@dataclass(frozen=True)
class PowersOfTwo:
    """Codes 0, 1, 2, 4, ... and their negatives."""

    largest: int = 4
    streams: ClassVar[str] = "none"
    by_layer: ClassVar[bool] = False

    def quantize(self, problem, on_iteration=silent):
        """The block's layers."""
        weights = {path: self._layer(problem.weight(path), spec) for path, spec in problem.specs.items()}
        inputs, (_, held_out) = inputs_of(problem), held_out_rows(problem)
        error = block_error(problem, weights, inputs, held_out, stream_powers(problem))
        report = {"error_rounding": error, "error": error, "kept_rounding": False, "losses": []}
        return BlockResult(weights, static_grids(inputs, weights), report)

    def _layer(self, weight, spec):
        scale = mx.abs(weight).max(axis=1, keepdims=True) / self.largest
        steps = mx.abs(weight / scale)
        power = mx.where(steps < 0.5, 0, 2.0 ** mx.round(mx.log2(mx.maximum(steps, 0.5))))
        codes = (mx.sign(weight) * mx.minimum(power, self.largest)).astype(mx.int8)
        return QuantizedWeight(codes, scale, mx.zeros_like(scale), spec)

    def cost(self, work):
        """Nothing to speak of."""
        return Cost()
