"""Grids of inputs against NumPy: each sample on the row of its timestep, whatever axes lie between."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.weights import RTN
from ditq.weights.input_grids import inputs_of, inputs_of_result
from tests.weights.problems import numbers, random_problem
from tests.weights.toy import toy_problem

TIMESTEPS = np.array([900.0, 500, 150], np.float32)
SCALE, QMAX = np.array([0.1, 0.05, 0.2], np.float32), np.array([7.0, 127, 31], np.float32)


def grid(channels=None, smooth=None) -> TimestepGrid:
    rng = np.random.default_rng(0)
    shift = (
        None if channels is None else mx.array(0.1 * rng.standard_normal((3, channels)).astype(np.float32))
    )
    rows = GridRows(mx.array(SCALE), mx.array(-QMAX - 1), mx.array(QMAX), shift)
    return TimestepGrid(TIMESTEPS, rows, smooth)


def expected(grid, x, timesteps):
    """Sample by sample, in NumPy."""
    found = np.empty_like(x)
    for at, (sample, timestep) in enumerate(zip(x, timesteps, strict=True)):
        row = int(np.abs(TIMESTEPS - timestep).argmin())
        shift = 0 if grid.rows.shift is None else np.array(grid.rows.shift)[row]
        sample = sample if grid.smooth is None else sample / np.array(grid.smooth)
        codes = np.clip(np.round((sample - shift) / SCALE[row]), -QMAX[row] - 1, QMAX[row])
        found[at] = codes * SCALE[row] + shift
    return found


@pytest.mark.parametrize("shape", [(32,), (6, 32), (3, 4, 32)], ids=["vectors", "tokens", "pixels"])
@pytest.mark.parametrize(("channels", "smooth"), [(None, False), (1, False), (32, True)])
def test_each_sample_stands_on_the_grid_of_its_timestep(shape, channels, smooth):
    factors = mx.array(np.linspace(0.5, 2, 32).astype(np.float32)) if smooth else None
    own = grid(channels, factors)
    problem = toy_problem("down", table={"down.conv": own})
    rows = np.array([7, 0, 3, 4])
    x = np.random.default_rng(1).standard_normal((4, *shape)).astype(np.float32)
    found = inputs_of(problem).of(problem.specs, mx.array(rows))
    assert list(found) == ["down.conv"]  # a layer without a grid keeps its input
    np.testing.assert_allclose(
        np.array(found["down.conv"](mx.array(x))), expected(own, x, problem.timesteps[rows]), atol=1e-6
    )


def test_layers_that_share_their_input_round_it_once_where_their_grids_are_the_same():
    problem = toy_problem("up")
    same = replace(problem, table={"up.k": grid(), "up.v": grid(), "up.q": grid()})
    found = inputs_of(same).of(same.specs, mx.array([0, 1]))
    assert found["up.k"] is found["up.v"] is not found["up.q"]
    other = replace(problem, table={"up.k": grid(), "up.v": grid(smooth=mx.ones(16))})
    found = inputs_of(other).of(other.specs, mx.array([0, 1]))
    assert found["up.k"] is not found["up.v"]


def test_static_grids_of_a_result_are_grids_of_one_row_for_all_timesteps():
    problem = random_problem(rows=6)
    result = RTN().quantize(problem)
    used, again = (
        grids.of(problem.specs, mx.array([0]))
        for grids in (inputs_of(problem), inputs_of_result(problem, result))
    )
    for path, (scale, shift) in numbers(result.activations).items():
        rows = result.activations[path].at(np.array([3.0, 999.0], np.float32))
        assert rows.scale.tolist() == [scale] * 2 and rows.qmax.tolist() == [127.0] * 2
        for one in (used[path], again[path]):
            assert (one.scale.item(), one.shift.item()) == (scale, shift)
    assert any(shift for _, shift in numbers(result.activations).values())
    assert inputs_of_result(problem, replace(result, activations=None)).of(problem.specs, mx.array([0])) == {}
