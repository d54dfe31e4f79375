"""Which grid each layer's input stands on at each timestep."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Int64

from ditq.core.errors import DitqError
from ditq.nn import ActivationGrid


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
        """For each timestep, the row that was calibrated nearest to it; the earlier of two equally near."""
        return np.abs(self.timesteps[None] - timesteps[:, None]).argmin(axis=1)

    def static(self) -> "ActivationTable":
        """One grid per layer for all timesteps: the least one that holds the layer's grid of every timestep.

        Its bits are the most that the layer has at any timestep.
        """
        return ActivationTable(self.timesteps[:1], {path: _widest(grid) for path, grid in self.grids.items()})


def _widest(grid: ActivationGrid) -> ActivationGrid:
    """The one-row grid over the union of the rows' ranges; per channel, around the mean of the rows' shifts."""
    finest = int(np.argmax(np.array(grid.qmax - grid.qmin)))
    qmin, qmax = grid.qmin[finest : finest + 1], grid.qmax[finest : finest + 1]
    low, high, shift = grid.scale * grid.qmin, grid.scale * grid.qmax, None
    if grid.shift is not None:
        shift = grid.shift.mean(axis=0, keepdims=True)
        moved = mx.abs(grid.shift - shift).max(axis=1)
        low, high = low - moved, high + moved
    scale = mx.maximum(low.min() / qmin, high.max() / qmax)
    return replace(grid, scale=scale, qmin=qmin, qmax=qmax, shift=shift)
