"""The denoising step as layers see it: one row of a table, put in place before each step."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Int64

from ditq.core.errors import DitqError


class StepClock:
    """Holds, for the current step, what every quantized layer needs of it.

    Layers register tables with a row per calibrated timestep. All tables lie side by side in one array, so that a step
    costs one slice and no gather per layer; `state` is the current row, to be named in `mx.compile(inputs=...)`: a new
    step changes its values and never retraces.
    """

    def __init__(self, timesteps: Float[np.ndarray, "steps"]):
        """`timesteps` are those of the rows, 1000 * sigma."""
        self.timesteps = timesteps
        self.steps = len(timesteps)
        self.state: list[mx.array] = []
        self.tables: list[mx.array] = []
        """Side by side in one array, once a step was set."""
        self._width = self._step = 0

    def register(self, table: Float[mx.array, "steps columns"]) -> slice:
        """Where the rows of `table` will be in the current row. Raises ValueError for another number of steps."""
        if table.shape[0] != self.steps:
            raise ValueError(f"a table of {table.shape[0]} steps on a clock of {self.steps}")
        self.tables.append(table.astype(mx.float32))
        start, self._width = self._width, self._width + table.shape[1]
        self.state.clear()
        return slice(start, self._width)

    def follow(self, timesteps: Float[np.ndarray, "wanted"]) -> Int64[np.ndarray, "wanted"]:
        """The row of each timestep of a sampler."""
        return nearest_rows(self.timesteps, timesteps)

    def set(self, row: int) -> None:
        """Makes `row` the current one. Raises IndexError beyond the last: MLX itself would wrap around in silence."""
        if not 0 <= row < self.steps:
            raise IndexError(f"step {row} on a clock of {self.steps} steps")
        self._step = row
        if self.tables:
            self._put()

    def row(self, columns: slice) -> Float[mx.array, "columns"]:
        """The current row of a registered table."""
        if not self.state:
            self._put()
        return self.state[0][columns]

    def _put(self) -> None:
        if len(self.tables) > 1:
            self.tables = [mx.concatenate(self.tables, axis=1)]
            mx.eval(self.tables)
        self.state[:] = [self.tables[0][self._step]]


def nearest_rows(
    calibrated: Float[np.ndarray, "steps"], wanted: Float[np.ndarray, "wanted"]
) -> Int64[np.ndarray, "wanted"]:
    """For each timestep the number of the one calibrated nearest to it, the earlier of two equally near."""
    return np.abs(calibrated[None] - wanted[:, None]).argmin(axis=1)


def clock_of(module: nn.Module) -> StepClock | None:
    """The clock that the quantized layers of `module` share; None without such layers. Raises DitqError for two."""
    clocks = {
        id(clock): clock for _, child in module.named_modules() if (clock := getattr(child, "_clock", None))
    }
    if len(clocks) > 1:
        raise DitqError(
            f"{type(module).__name__}: {len(clocks)} step clocks; inject one checkpoint at a time"
        )
    return next(iter(clocks.values()), None)
