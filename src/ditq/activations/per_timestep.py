"""A grid for each timestep, where that saves enough error over one grid for all."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ditq.activations.decision import Decision, Weights
from ditq.activations.grid_search import find_grid
from ditq.activations.searched_grids import SearchedGrids
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.cost import Cost
from ditq.diagnostics import LayerStatistics, ObservedInput


@dataclass(frozen=True)
class PerTimestep(SearchedGrids):
    """The grid of least output error for every calibrated timestep; other timesteps take the nearest one's."""

    time_gain: float = 0.1
    """The part of the error that a grid for each timestep must save against one for all: below that, grids follow the
    noise of their own samples more than any drift."""

    NUMBERS: ClassVar[tuple[str, ...]] = (*SearchedGrids.NUMBERS, "time_gain")

    def cost(self, inputs: Sequence[ObservedInput], steps: int) -> Cost:
        """That of every step, and of a grid for all of them."""
        return super().cost(inputs, steps) + super().cost(inputs, 1)

    def decide(
        self, statistics: LayerStatistics, weights: Weights, on_step: Callable[[], None] = lambda: None
    ) -> Decision:
        """The grids of all observed inputs. `weights` is asked only where a layer has isolated spikes."""
        decision, errors = self.search(statistics, weights, on_step)
        return decision if len(statistics.steps) == 1 else self._shared(statistics, decision, errors)

    def to_json(self) -> dict[str, Any]:
        """The method as JSON values."""
        return {**super().to_json(), "time_gain": self.time_gain}

    def _shared(self, statistics: LayerStatistics, decision: Decision, own: Mapping[str, float]) -> Decision:
        """The decision in which inputs whose own grids save less than `time_gain` have one grid for all timesteps.

        Only where the bits are the same at all timesteps; where they are not, the timesteps must differ.
        """
        shared: dict[str, GridRows] = {}
        smooth, kinds = decision.smooth, decision.kinds
        pooled = statistics.pooled
        for source, _, inputs in self.observed(pooled, pooled.steps[0], smooth):
            bits = set(decision.bits[source])
            if len(bits) == 1:
                shared[source] = find_grid(inputs, bits.pop(), kinds[source], self.how, self.norm)
        errors = dict.fromkeys(shared, 0.0)
        for step in statistics.steps:
            for source, _, inputs in self.observed(statistics, step, smooth):
                if source in shared:
                    errors[source] += inputs.error(shared[source])
        grids, steps = dict(decision.grids), len(statistics.steps)
        for source, grid in shared.items():
            saved = 1 - own[source] / errors[source] if errors[source] > 0 else 0.0
            decision.reports[source]["saved_by_own_grids"] = saved
            if saved < self.time_gain:
                rows = grid.take(np.zeros(steps, np.int64))
                grids[source] = TimestepGrid(decision.timesteps, rows, grids[source].smooth)
                if self.damage is not None:
                    decision.reports[source]["predicted_damage"] = errors[source]
        return replace(decision, grids=grids)
