"""One grid for all timesteps."""

from collections.abc import Callable
from dataclasses import dataclass

from ditq.activations.decision import Decision, Weights
from ditq.activations.searched_grids import SearchedGrids
from ditq.diagnostics import LayerStatistics


@dataclass(frozen=True)
class Static(SearchedGrids):
    """The grid of least output error over the values of all timesteps together."""

    def decide(
        self, statistics: LayerStatistics, weights: Weights, on_step: Callable[[], None] = lambda: None
    ) -> Decision:
        """The grids of all observed inputs, a row each. `weights` is asked only where a layer has isolated spikes."""
        decision, _ = self.search(statistics.pooled, weights)
        for _ in statistics.steps:
            on_step()
        return decision
