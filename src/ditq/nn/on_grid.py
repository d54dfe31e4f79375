"""A float layer whose input stands on a grid: what rounding activations alone costs."""

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.core import affine
from ditq.core.activation_grid import ActivationGrid, GridRows
from ditq.nn.clock import StepClock, rows_source


class OnGrid(nn.Module):
    """Puts its input on the grid of the clock's step and calls the layer; channel factors are divided out and back."""

    def __init__(self, layer: nn.Module, grid: ActivationGrid, clock: StepClock):
        super().__init__()
        self._layer, self._smooth, self._clock = layer, grid.smooth, clock
        self._parts: dict[str, slice] = {}

        def tabulate(rows: GridRows) -> mx.array:
            columns, start = [], 0
            for name, array in rows.arrays.items():
                column = array if array.ndim == 2 else array[:, None]
                self._parts[name] = slice(start, start + column.shape[1])
                start += column.shape[1]
                columns.append(column)
            return mx.concatenate(columns, axis=1)

        self._columns = clock.register(*rows_source(grid, tabulate))

    def __call__(self, x: Float[mx.array, "*rows channels"]) -> mx.array:
        """What the layer returns for the rounded input, in its dtype."""
        row = self._clock.row(self._columns)
        rows = GridRows(
            **{name: row[part] if name != "shift" else row[part][None] for name, part in self._parts.items()}
        )
        values = x if self._smooth is None else x / self._smooth
        shift = mx.array(0.0) if rows.shift is None else rows.shift[0]
        below = None if rows.below is None else rows.below[0]
        axes = (-1,) if not isinstance(self._layer, nn.Conv2d) else (-3, -2, -1)
        rounded = affine.fake_quant_within(
            values, rows.step(0, values, axes), shift, rows.qmin[0], rows.qmax[0], below
        )
        return self._layer((rounded if self._smooth is None else rounded * self._smooth).astype(x.dtype))


def on_grids(
    layers: Mapping[str, nn.Module], grids: Mapping[str, ActivationGrid], clock: StepClock
) -> dict[str, OnGrid]:
    """The layers that have a grid, on it, by path."""
    return {path: OnGrid(layers[path], grid, clock) for path, grid in grids.items() if path in layers}
