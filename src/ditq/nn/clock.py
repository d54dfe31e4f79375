"""The denoising step as layers see it: one row of a table, put in place before each step."""

import mlx.core as mx
from jaxtyping import Float


class StepClock:
    """Holds, for the current step, what every quantized layer needs of it.

    Layers register tables with a row per step. All tables lie side by side in one array, so that a step costs one
    slice and no gather per layer; `state` is the current row, to be named in `mx.compile(inputs=...)`: a new step
    changes its values and never retraces.
    """

    def __init__(self, steps: int):
        self.steps = steps
        self.state: list[mx.array] = []
        self._tables: list[mx.array] = []
        self._width = self._step = 0

    def register(self, table: Float[mx.array, "steps columns"]) -> slice:
        """Where the rows of `table` will be in the current row. Raises ValueError for another number of steps."""
        if table.shape[0] != self.steps:
            raise ValueError(f"a table of {table.shape[0]} steps on a clock of {self.steps}")
        self._tables.append(table.astype(mx.float32))
        start, self._width = self._width, self._width + table.shape[1]
        self.state.clear()
        return slice(start, self._width)

    def set(self, step: int) -> None:
        """Makes `step` the current one. Raises IndexError beyond the last: MLX itself would wrap around in silence."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} on a clock of {self.steps} steps")
        self._step = step
        if self.state:
            self.state[0] = self._tables[0][step]

    def row(self, columns: slice) -> Float[mx.array, "columns"]:
        """The current row of a registered table."""
        if not self.state:
            self._tables = [mx.concatenate(self._tables, axis=1)]
            self.state.append(self._tables[0][self._step])
        return self.state[0][columns]
