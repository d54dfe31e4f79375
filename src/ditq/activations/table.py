"""Which grid each layer's input stands on at each timestep."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from ditq.core.errors import DitqError
from ditq.nn import ActivationGrid, nearest_rows


@dataclass(frozen=True)
class ActivationTable:
    """Static activation grids by layer path, each with one row per calibrated timestep."""

    timesteps: Float32[np.ndarray, "steps"]
    """1000 * sigma, falling."""
    grids: dict[str, ActivationGrid]

    def __post_init__(self) -> None:
        steps = len(self.timesteps)
        if steps == 0 or (np.diff(self.timesteps) >= 0).any():
            raise DitqError(f"activation timesteps must fall, one at least: got {self.timesteps.tolist()}")
        for path, grid in self.grids.items():
            if len(grid.scale) != steps:
                raise DitqError(f"{path}: {len(grid.scale)} activation scales for {steps} timesteps")

    def rows(self, timesteps: Float32[np.ndarray, "wanted"]) -> Int64[np.ndarray, "wanted"]:
        """For each timestep the row that a quantized model takes."""
        return nearest_rows(self.timesteps, timesteps)
