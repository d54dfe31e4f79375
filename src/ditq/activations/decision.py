"""What every activation method returns: a grid for each observed input, and what led to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Float64

from ditq.activations.table import ActivationTable
from ditq.core.activation_grid import ActivationGrid, GridRows
from ditq.core.cost import Cost
from ditq.diagnostics import LayerStatistics, ObservedInput

Kind = Literal["none", "tensor", "channels", "dual-scale", "per-token"]
"""The shift of a grid: zero, one value, or one per channel (TaQ-DiT's moving midpoints, plus one value); or what is in
the place of a shift, `core.activation_grid.KINDS`."""
Weights = Callable[[list[str]], Mapping[str, mx.array]]
"""Gives the weights of some layers, by path, kernels as they are or unfolded; called only where a method needs them."""


@dataclass(frozen=True, eq=False)
class Decision:
    """A grid of any kind for each observed input; inputs without one stay as they are.

    `quant_config` writes it and `table` hands it to layers and checkpoints. A method that has its grids ready makes it
    by `Decision.of(statistics, grids)`.
    """

    steps: list[int]
    """The calibrated steps, as the statistics number them."""
    timesteps: Float[np.ndarray, "steps"]
    """Those of the steps, falling."""
    grids: dict[str, ActivationGrid]
    """By the path of the layer that was observed."""
    ranges: dict[str, Float64[np.ndarray, "steps"]] = field(default_factory=dict)
    """How wide each input is at each step, where the method looked; see `temporal.observed_ranges`."""
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Reasons: errors of each kind of shift, spikes, and what the gate of the channel factors found."""

    @classmethod
    def of(cls, statistics: LayerStatistics, grids: Mapping[str, ActivationGrid], **known: Any) -> "Decision":
        """The decision for these grids at the steps of the statistics; `known` are its other fields."""
        return cls(statistics.steps, statistics.timesteps, dict(grids), **known)

    @cached_property
    def rows(self) -> dict[str, GridRows]:
        """Each input's grid at the calibrated timesteps."""
        return {source: grid.at(self.timesteps) for source, grid in self.grids.items()}

    @cached_property
    def bits(self) -> dict[str, list[int]]:
        """The bits of each input at each timestep."""
        return {source: rows.bits for source, rows in self.rows.items()}

    @property
    def scales(self) -> dict[str, Float32[np.ndarray, "steps"]]:
        """The step size of each input at each timestep."""
        return {source: np.array(rows.scale) for source, rows in self.rows.items()}

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of each input's grid, the same at all timesteps."""
        return {source: kind_of(rows) for source, rows in self.rows.items()}

    @property
    def smooth(self) -> dict[str, Float32[np.ndarray, "_"]]:
        """The channel factors of the inputs that have some."""
        found = {source: grid.smooth for source, grid in self.grids.items()}
        return {source: np.array(factors) for source, factors in found.items() if factors is not None}

    def table(self, layers: Mapping[str, str]) -> ActivationTable:
        """The grids by layer; `layers` says which input was observed for each. Layers of one input share its grid."""
        grids = {layer: self.grids[source] for layer, source in layers.items() if source in self.grids}
        return ActivationTable(self.timesteps, grids)


@runtime_checkable
class ActivationMethod(Protocol):
    """A way to choose activation grids: a frozen dataclass whose fields are its hyper-parameters and recipe keys."""

    def decide(
        self, statistics: LayerStatistics, weights: Weights, on_step: Callable[[], None] = lambda: None
    ) -> Decision:
        """The grids of all observed inputs. `on_step()` is called once for each step of the statistics."""
        ...

    def cost(self, inputs: Sequence[ObservedInput], steps: int) -> Cost:
        """What deciding on these inputs at so many steps takes."""
        ...


def kind_of(rows: GridRows) -> Kind:
    """The kind of the rows."""
    if rows.kind is not None:
        return rows.kind
    if rows.shift is None:
        return "none"
    return "tensor" if rows.shift.shape[1] == 1 else "channels"
