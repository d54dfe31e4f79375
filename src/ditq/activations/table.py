"""Which grid each layer's input stands on."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from ditq.core.activation_grid import ActivationGrid, TimestepGrid
from ditq.core.errors import DitqError, UserError
from ditq.sampling.schedules import PROCESSES

LATEST = max(float(process.timesteps(np.ones(1))[0]) for process in PROCESSES.values())
"""The timestep of pure noise, the greatest that any noise process has; the least is 0."""


@dataclass(frozen=True, eq=False)
class ActivationTable:
    """Activation grids of any kind by layer path; a layer that has none keeps its input."""

    timesteps: Float[np.ndarray, "steps"]
    """The calibrated timesteps, falling."""
    grids: dict[str, ActivationGrid]

    def __post_init__(self) -> None:
        check_timesteps(self.timesteps, "activation timesteps")
        for path, grid in self.grids.items():
            if isinstance(grid, TimestepGrid) and len(grid.rows) != len(grid.timesteps):
                rows, steps = len(grid.rows), len(grid.timesteps)
                raise DitqError(f"{path}: {rows} activation scales for {steps} timesteps")

    def steps(self, paths: Iterable[str]) -> dict[str, Float32[np.ndarray, "steps"]]:
        """The step sizes at each calibrated timestep, by layer, of those layers that have a grid."""
        own = [path for path in paths if path in self.grids]
        return {path: np.array(self.grids[path].at(self.timesteps).scale, np.float32) for path in own}


def check_timesteps(timesteps: Float[np.ndarray, "..."], where: str) -> None:
    """Raises UserError, beginning with `where`, unless the timesteps are finite, fall, and lie from 0 to `LATEST`."""
    within = bool(((timesteps >= 0) & (timesteps <= LATEST)).all())  # NaN is not
    if timesteps.ndim != 1 or not timesteps.size or not within or (np.diff(timesteps) >= 0).any():
        found = [f"{float(one):g}" for one in timesteps.flat]
        shown = ", ".join(found if len(found) <= 6 else [*found[:3], "...", *found[-2:]])
        expected = f"one at least; they must fall, within 0 and {LATEST:g}"
        raise UserError(where, got=f"[{shown}]", expected=expected)
