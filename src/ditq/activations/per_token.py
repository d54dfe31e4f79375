"""Steps that each token decides when the layer runs: the row that every static method is held against.

SegQuant (arXiv 2507.14811), ViDiT-Q (arXiv 2406.02540) and Q-DiT (arXiv 2406.17343) quantize activations in this way.
A layer then reads its input once more than with a static grid, to find each token's greatest |x|.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ditq.activations.decision import Decision, Weights
from ditq.core.activation_grid import ActivationGrid, GridRows, TimestepGrid
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.spec import is_whole
from ditq.diagnostics import LayerStatistics, ObservedInput


@dataclass(frozen=True)
class PerToken:
    """Symmetric grids from each token's own greatest |x|; in a convolution, whose sums are over pixels, each picture's.

    Statistics are asked for nothing but which inputs there are.
    """

    bits: int = 8
    part: float = 1.0
    """Of the greatest |x|, what the grid reaches: below 1 the largest values are clipped."""

    def __post_init__(self) -> None:
        if not is_whole(self.bits) or not 2 <= self.bits <= 8:
            raise UserError("bits", got=self.bits, expected="from 2 to 8")
        if not 0 < self.part <= 1:
            raise UserError("part", got=self.part, expected="above 0 and at most 1")

    def cost(self, inputs: Sequence[ObservedInput], steps: int) -> Cost:
        """Nothing but reading the statistics."""
        return Cost(counted=steps * sum(one.sample * one.channels for one in inputs))

    def decide(
        self, statistics: LayerStatistics, weights: Weights, on_step: Callable[[], None] = lambda: None
    ) -> Decision:
        """The grids of all observed inputs, a row each, which holds at all timesteps."""
        pooled = statistics.pooled
        rows = GridRows.of([self.bits], np.ones(1), per_token=np.array([self.part]))
        grid: ActivationGrid = TimestepGrid(pooled.timesteps, rows)
        for _ in statistics.steps:
            on_step()
        return Decision.of(pooled, dict.fromkeys(statistics.groups, grid))
