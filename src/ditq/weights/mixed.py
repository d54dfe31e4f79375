"""Several methods within one block, as a recipe's lines ask for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.nn as nn

from ditq import capture
from ditq.core.quantized import QuantizedWeight
from ditq.models.mmdit.model import MultiModalTransformerBlock
from ditq.weights.input_grids import inputs_of
from ditq.weights.layerwise import judged
from ditq.weights.problem import BlockProblem, BlockResult, Method, OnIteration, silent


@dataclass(frozen=True)
class Mixed:
    """The methods of a block's layers; itself a method.

    Methods without calibration come first, whatever the recipe's order, then the others in the order of their first
    layer: each makes up for those before it, which it sees in their places with their weights quantized (and their
    inputs as they are).
    """

    methods: Mapping[str, Method]
    """By their names in the recipe."""
    names: Mapping[str, str]
    """The name of each layer's method, by path."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        order = list(dict.fromkeys(self.names[path] for path in problem.specs))
        order.sort(key=lambda name: name != "rtn")
        if len(order) == 1:
            return self.methods[order[0]].quantize(problem, on_iteration)
        weights: dict[str, QuantizedWeight] = {}
        activations: dict[str, tuple[float, float]] = {}
        reports: dict[str, Any] = {}
        for name in order:
            specs = {path: spec for path, spec in problem.specs.items() if self.names[path] == name}
            part = replace(problem, specs=specs)
            if weights:
                original = problem.block if problem.float_block is None else problem.float_block
                part = replace(part, block=with_weights(problem, weights), float_block=original)
            result = self.methods[name].quantize(part, on_iteration)
            weights |= result.weights
            activations |= result.activations or {}
            reports[name] = result.report
        report = judged(problem, inputs_of(problem), weights)
        return BlockResult(weights, activations or None, {**report, "methods": reports})


def with_weights(problem: BlockProblem, weights: Mapping[str, QuantizedWeight]) -> MultiModalTransformerBlock:
    """The problem's block with these weights in its layers; the block itself stays as it is."""
    block = capture.twin(problem.block)
    inside = {problem.inside(path): weight for path, weight in weights.items()}
    capture.replace(block, dequantized(problem.block, inside))
    return block


def dequantized(model: nn.Module, weights: Mapping[str, QuantizedWeight]) -> dict[str, nn.Module]:
    """Float linear layers that compute with these weights and the model's own biases."""
    modules, made = capture.linears(model), {}
    for path, weight in weights.items():
        rows, columns = weight.shape
        layer = nn.Linear(columns, rows, "bias" in modules[path])
        layer.weight = weight.effective()
        if "bias" in modules[path]:
            layer.bias = modules[path].bias
        made[path] = layer
    return made
