"""The denoising step as layers see it: one row of numbers per step, put in place before each step."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float

from ditq.core.activation_grid import ActivationGrid, GridRows, TimestepGrid, Timesteps, nearest_rows
from ditq.core.errors import DitqError

RowsAt = Callable[[Timesteps], mx.array]
"""Gives a row of numbers, float32, for each of some timesteps: (rows, columns)."""


class StepClock:
    """Holds, for the current step of a run, the numbers that every quantized layer needs at its timestep.

    Layers register sources of rows. `follow` asks all of them for the rows of a run's timesteps, and lays these side by
    side in one array, so that a step costs one slice and no gather per layer; `set` makes one row the current one.
    `state` holds that row, to be named in `mx.compile(inputs=...)`: a new step, or a run of other timesteps, changes
    its values and never retraces.
    """

    def __init__(self) -> None:
        self.state: list[mx.array] = []
        self._sources: list[RowsAt] = []
        self._columns = 0
        self._timesteps: Timesteps | None = None
        self._table = mx.zeros((0, 0))

    def register(self, rows_at: RowsAt, columns: int) -> slice:
        """Where this source's `columns` will be in the current row. The clock then wants `follow` again."""
        self._sources.append(rows_at)
        start, self._columns = self._columns, self._columns + columns
        self._timesteps = None
        self.state.clear()
        return slice(start, self._columns)

    def follow(self, timesteps: Timesteps) -> None:
        """Tabulates all sources, so that row i belongs to step i of a run over these timesteps.

        Evaluates the table; does nothing when the clock follows these timesteps already. The current row is that of
        step 0 until `set` is called.
        """
        if self._timesteps is not None and np.array_equal(self._timesteps, timesteps):
            return
        self._timesteps = np.array(timesteps)
        if self._sources:
            rows = [rows_at(self._timesteps).astype(mx.float32) for rows_at in self._sources]
            self._table = mx.concatenate(rows, axis=1)
            mx.eval(self._table)
            self.state[:] = [self._table[0]]

    def set(self, step: int) -> None:
        """Makes the row of `step` the current one.

        Raises DitqError before `follow`, and IndexError beyond the run: MLX itself would wrap around in silence.
        """
        steps = len(self._followed())
        if not 0 <= step < steps:
            raise IndexError(f"step {step} on a clock of {steps} steps")
        if self._sources:
            self.state[:] = [self._table[step]]

    def row(self, columns: slice) -> Float[mx.array, "columns"]:
        """The current row of a source. Raises DitqError before `follow`."""
        self._followed()
        return self.state[0][columns]

    def _followed(self) -> Timesteps:
        if self._timesteps is None:
            raise DitqError(
                "the step clock of the quantized layers does not know the run's timesteps: "
                "call clock.follow(timesteps), then clock.set(step) before each step"
            )
        return self._timesteps


def rows_source(grid: ActivationGrid, tabulate: Callable[[GridRows], mx.array]) -> tuple[RowsAt, int]:
    """A source of `tabulate(grid.at(timesteps))`, and its columns.

    Calibrated rows are tabulated once, when a run first asks for some of them; rows that a grid computes, for each run.
    """
    if isinstance(grid, TimestepGrid):
        calibrated, table = grid.timesteps, tabulate(grid.rows)
        return lambda timesteps: table[mx.array(nearest_rows(calibrated, timesteps))], table.shape[1]
    # One row, never evaluated, shows the shape.
    columns = tabulate(grid.at(np.array([500.0], np.float32))).shape[1]
    return lambda timesteps: tabulate(grid.at(timesteps)), columns


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
