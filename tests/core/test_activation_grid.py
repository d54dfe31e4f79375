"""Rows of activation grids: made from bits, joined, taken, and found by their timesteps."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.activation_grid import GridRows, TimestepGrid, nearest_rows
from ditq.core.errors import UserError


def test_bits_make_the_bounds_and_come_back():
    rows = GridRows.of([2, 4, 6, 8], np.arange(1.0, 5.0))
    assert rows.qmin.tolist() == [-2, -8, -32, -128] and rows.qmax.tolist() == [1, 7, 31, 127]
    assert rows.bits == [2, 4, 6, 8] and len(rows) == 4 and rows.scale.dtype == mx.float32
    with pytest.raises(UserError, match="bits: got 9"):
        GridRows.of([9], np.ones(1))


def test_joined_rows_stand_in_the_order_of_their_parts():
    parts = [GridRows.of([b], np.array([float(b)]), np.full((1, 3), float(b))) for b in (8, 4, 6)]
    whole = GridRows.joined(parts)
    assert whole.bits == [8, 4, 6] and np.array(whole.shift)[:, 0].tolist() == [8, 4, 6]
    taken = whole.take(np.array([2, 2, 0]))
    assert taken.bits == [6, 6, 8] and np.array(taken.shift)[:, 2].tolist() == [6, 6, 8]
    assert GridRows.joined([GridRows.of([8], np.ones(1))] * 2).shift is None


def test_timesteps_take_the_nearest_row_and_the_earlier_of_two():
    calibrated = np.array([1000.0, 600.0, 100.0])
    assert nearest_rows(calibrated, np.array([1200.0, 801, 800, 799, 350, 0])).tolist() == [0, 0, 0, 1, 1, 2]
    grid = TimestepGrid(calibrated, GridRows.of([8, 6, 4], np.ones(3)))
    assert grid.at(np.array([90.0, 990.0])).bits == [4, 8]
    static = TimestepGrid(calibrated[:1], GridRows.of([5], np.ones(1)))
    assert static.at(np.array([90.0, 990.0])).bits == [5, 5]
