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


@pytest.mark.parametrize("timesteps", [[], [1, 2, 3], [3, 3, 1]])
def test_timesteps_must_fall(timesteps):
    with pytest.raises(DitqError, match="must fall"):
        ActivationTable(np.array(timesteps, np.float32), {})


def test_a_grid_of_other_steps_is_named():
    with pytest.raises(DitqError, match="fc2: 2 activation scales for 3 timesteps"):
        table([1.0, 1.0], [8, 8])
