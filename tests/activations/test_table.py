"""Tables hold grids of any kind; damaged ones are named."""

import numpy as np
import pytest

from ditq.activations import ActivationTable, LogSNRGrid
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import DitqError

STEPS = np.array([1000, 600, 100], np.float32)


def table(scale: list[float]) -> ActivationTable:
    rows = GridRows.of([8] * len(scale), np.array(scale))
    return ActivationTable(STEPS, {"fc2": TimestepGrid(STEPS, rows)})


def test_grids_are_asked_for_the_nearest_timestep():
    wanted = np.array([1200, 801, 799, 351, 0], np.float32)
    assert table([1.0, 2.0, 3.0]).grids["fc2"].at(wanted).scale.tolist() == [1, 1, 2, 2, 3]


@pytest.mark.parametrize("timesteps", [[], [1, 2, 3], [3, 3, 1]])
def test_timesteps_must_fall(timesteps):
    with pytest.raises(DitqError, match="must fall"):
        ActivationTable(np.array(timesteps, np.float32), {})


def test_a_grid_of_other_steps_is_named():
    with pytest.raises(DitqError, match="fc2: 2 activation scales for 3 timesteps"):
        table([1.0, 1.0])


def test_grids_of_several_kinds_share_a_table():
    grids = {**table([1.0, 2.0, 3.0]).grids, "fc1": LogSNRGrid(np.array([1.0]), 4)}
    rows = {path: grid.at(STEPS) for path, grid in ActivationTable(STEPS, grids).grids.items()}
    assert rows["fc1"].bits == [4, 4, 4] and rows["fc1"].scale.tolist() == [2, 2, 2]
    assert rows["fc2"].bits == [8, 8, 8]
