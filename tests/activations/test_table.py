"""Tables of activation grids find the nearest timestep, and widen to one grid for all."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import ActivationTable
from ditq.core.errors import DitqError
from ditq.nn import ActivationGrid


def table(scale: list[float], bits: list[int], shift: np.ndarray | None = None) -> ActivationTable:
    lowest = mx.array([-(2.0 ** (b - 1)) for b in bits])
    grid = ActivationGrid(
        mx.array(scale), lowest, -lowest - 1, None if shift is None else mx.array(shift, dtype=mx.float32)
    )
    return ActivationTable(np.array([1000, 600, 100], np.float32), {"fc2": grid})


def test_rows_are_those_of_the_nearest_timestep():
    wanted = np.array([1200, 801, 799, 351, 0], np.float32)
    assert table([1.0, 1.0, 1.0], [8, 8, 8]).rows(wanted).tolist() == [0, 0, 1, 1, 2]


def test_static_holds_every_timesteps_range_with_the_most_bits():
    shift = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    grid = table([0.1, 0.4, 0.02], [8, 4, 6], shift).static().grids["fc2"]
    assert (grid.qmin.item(), grid.qmax.item()) == (-128, 127)
    np.testing.assert_array_equal(np.array(grid.shift), [[1, 1]])
    low, high = grid.scale.item() * -128 + 1, grid.scale.item() * 127 + 1
    assert low <= -12.8 + 0 + 1e-5 and high >= 12.7 + 0 - 1e-5
    assert high >= 0.02 * 31 + 2 and low <= -3.2 + 1


def test_static_of_a_table_without_shift_is_the_widest_row():
    grid = table([0.1, 0.4, 0.02], [8, 8, 8]).static().grids["fc2"]
    assert grid.shift is None
    assert grid.scale.item() == pytest.approx(0.4)


@pytest.mark.parametrize("timesteps", [[], [1, 2, 3], [3, 3, 1]])
def test_timesteps_must_fall(timesteps):
    with pytest.raises(DitqError, match="must fall"):
        ActivationTable(np.array(timesteps, np.float32), {})


def test_a_grid_of_other_steps_is_named():
    with pytest.raises(DitqError, match="fc2: 2 activation scales for 3 timesteps"):
        table([1.0, 1.0], [8, 8])
