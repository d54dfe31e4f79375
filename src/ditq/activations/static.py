"""One grid for all timesteps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ditq.activations.decision import Decision, Weights
from ditq.activations.searched_grids import SearchedGrids
from ditq.core.cost import Cost
from ditq.diagnostics import LayerStatistics, ObservedInput


@dataclass(frozen=True)
class Static(SearchedGrids):
    """The grid of least output error over the values of all timesteps together."""

    def cost(self, inputs: Sequence[ObservedInput], steps: int) -> Cost:
        """That of one step: the others' statistics are added to the first one's."""
        return super().cost(inputs, 1)

    def decide(
        self, statistics: LayerStatistics, weights: Weights, on_step: Callable[[], None] = lambda: None
    ) -> Decision:
        """The grids of all observed inputs, a row each. `weights` is asked only where a layer has isolated spikes."""
        decision, _ = self.search(statistics.pooled, weights)
        for _ in statistics.steps:
            on_step()
        return decision
