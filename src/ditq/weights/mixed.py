"""Several methods within one block, as a recipe's lines ask for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import mlx.nn as nn

from ditq import capture
from ditq.core.activation_grid import TimestepGrid
from ditq.core.cost import Cost
from ditq.core.quantized import QuantizedWeight
from ditq.weights.checks import check_problem
from ditq.weights.cost import Work
from ditq.weights.input_grids import inputs_of
from ditq.weights.layerwise import judged
from ditq.weights.problem import (
    BlockModule,
    BlockProblem,
    BlockResult,
    InputsUsed,
    Method,
    OnIteration,
    silent,
)


@dataclass(frozen=True)
class Mixed:
    """The methods of a block's layers; itself a method.

    Methods that look at no inputs come first, whatever the recipe's order, then the others in the order of their first
    layer. Each compensates for those before it: it runs in a block whose layers have their weights already (and receive
    their inputs unquantized).
    """

    methods: Mapping[str, Method]
    """By their names in the recipe."""
    names: Mapping[str, str]
    """The name of each layer's method, by path."""

    by_layer: ClassVar[bool] = False

    @property
    def streams(self) -> InputsUsed:
        """All inputs that one of its methods looks at."""
        used = {self.methods[name].streams for name in self.names.values()}
        for one in ("none", "float", "quantized"):
            if used <= {"none", one}:
                return one
        return "both"

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        order = list(dict.fromkeys(self.names[path] for path in problem.specs))
        order.sort(key=lambda name: self.methods[name].streams != "none")
        if len(order) == 1:
            return self.methods[order[0]].quantize(problem, on_iteration)
        check_problem(problem)
        weights: dict[str, QuantizedWeight] = {}
        activations: dict[str, TimestepGrid] = {}
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

    def cost(self, work: Work) -> Cost:
        """The sum of its methods' costs, each for its own layers."""
        total = Cost()
        for name in dict.fromkeys(self.names[path] for path in work.layers):
            own = [path for path in work.layers if self.names[path] == name]
            total += self.methods[name].cost(work.only(own))
        return total


def with_weights(problem: BlockProblem, weights: Mapping[str, QuantizedWeight]) -> BlockModule:
    """The problem's block with these weights in its layers; the block itself stays as it is."""
    block = capture.sharing(problem.block)
    inside = {problem.inside(path): weight for path, weight in weights.items()}
    capture.replace(block, dequantized(problem.block, inside))
    return block


def dequantized(model: nn.Module, weights: Mapping[str, QuantizedWeight]) -> dict[str, nn.Module]:
    """Float layers of the model's own kinds that compute with these weights and the model's own biases."""
    layers = capture.layers(model)
    return {path: capture.with_weight(layers[path], weight.effective()) for path, weight in weights.items()}
