"""Which grid each layer's input stands on."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ditq.core.activation_grid import ActivationGrid, TimestepGrid
from ditq.core.errors import DitqError


@dataclass(frozen=True, eq=False)
class ActivationTable:
    """Activation grids of any kind by layer path; a layer that has none keeps its input."""

    timesteps: Float[np.ndarray, "steps"]
    """The calibrated timesteps, falling."""
    grids: dict[str, ActivationGrid]

    def __post_init__(self) -> None:
        if len(self.timesteps) == 0 or (np.diff(self.timesteps) >= 0).any():
            raise DitqError(f"activation timesteps must fall, one at least: got {self.timesteps.tolist()}")
        for path, grid in self.grids.items():
            if isinstance(grid, TimestepGrid) and len(grid.rows) != len(grid.timesteps):
                rows, steps = len(grid.rows), len(grid.timesteps)
                raise DitqError(f"{path}: {rows} activation scales for {steps} timesteps")
