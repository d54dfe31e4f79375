"""The step clock: the rows of a run's timesteps, one at a time, one clock per model."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import DitqError
from ditq.nn import StepClock, clock_of
from ditq.nn.clock import rows_source

TIMESTEPS = np.array([1000, 900, 400, 10], np.float32)


def table(columns: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal((4, columns)).astype(np.float32))


def source(rows: mx.array, asked=None):
    """Gives the first rows of a table, whatever the timesteps, and notes that it was asked."""

    def rows_at(timesteps):
        if asked is not None:
            asked.append(timesteps.tolist())
        return rows[: len(timesteps)]

    return rows_at


def grid(timesteps=TIMESTEPS) -> TimestepGrid:
    """Row i has the step size i + 1."""
    ones = mx.ones((len(timesteps),))
    return TimestepGrid(timesteps, GridRows(mx.arange(1, len(timesteps) + 1).astype(mx.float32), -ones, ones))


def rows_taken(calibrated, wanted) -> list[int]:
    """The calibrated row of each step of a run, by way of a clock."""
    clock = StepClock()
    rows_at, columns = rows_source(grid(calibrated), lambda rows: rows.scale[:, None])
    place = clock.register(rows_at, columns)
    clock.follow(np.array(wanted))
    taken = []
    for step in range(len(wanted)):
        clock.set(step)
        taken.append(int(clock.row(place).item()) - 1)
    return taken


class Reader(nn.Module):
    """A layer with nothing but a clock."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock


@pytest.mark.parametrize("timesteps", [[1000.0, 960.0, 940.0, 651.0, 649.0, 200.0, 0.0], [3.0, 1200.0]])
def test_a_run_takes_the_nearest_calibrated_rows(timesteps):
    nearest = [min(range(4), key=lambda row: abs(float(TIMESTEPS[row]) - t)) for t in timesteps]
    assert rows_taken(TIMESTEPS, timesteps) == nearest


def test_the_earlier_of_two_equally_near_is_taken():
    assert rows_taken(TIMESTEPS, [950.0, 650.0, 205.0]) == [0, 1, 2]


def test_one_timestep_serves_all():
    assert rows_taken(TIMESTEPS[:1], [1000.0, 3.0]) == [0, 0]


def test_calibrated_rows_are_tabulated_once_and_computed_ones_for_each_run():
    tabulated = []

    class Computed:
        """A grid whose step size is the timestep."""

        smooth = None

        def at(self, timesteps):
            bounds = mx.ones((len(timesteps),))
            return GridRows(mx.array(timesteps).astype(mx.float32), -bounds, bounds)

    def tabulate(rows):
        tabulated.append(len(rows))
        return rows.scale[:, None]

    clock = StepClock()
    places = [clock.register(*rows_source(one, tabulate)) for one in (grid(), Computed())]
    assert tabulated == [4, 1]  # the calibrated rows; and a row that shows how many columns there are
    for run in ([890.0, 20.0], [700.0, 400.0, 3.5]):
        clock.follow(np.array(run))
        for step, timestep in enumerate(run):
            clock.set(step)
            assert clock.row(places[1]).item() == timestep
    assert clock.row(places[0]).item() == 4
    assert tabulated == [4, 1, 2, 3]


def test_every_source_finds_its_columns_however_late_it_came():
    clock, tables = StepClock(), [table(3, 0), table(1, 1), table(5, 2)]
    places = [clock.register(source(each), each.shape[1]) for each in tables[:2]]
    clock.follow(TIMESTEPS)
    clock.set(1)
    assert mx.array_equal(clock.row(places[0]), tables[0][1])
    places.append(clock.register(source(tables[2]), 5))
    clock.follow(TIMESTEPS)
    for row in (2, 0, 3):
        clock.set(row)
        for place, each in zip(places, tables, strict=True):
            assert mx.array_equal(clock.row(place), each[row])


def test_the_state_is_one_list_for_ever():
    clock = StepClock()
    state = clock.state
    clock.register(source(table(3, 0)), 3)
    clock.follow(TIMESTEPS)
    clock.set(2)
    clock.register(source(table(3, 1)), 3)
    clock.follow(TIMESTEPS[:2])
    clock.set(1)
    assert clock.state is state and len(state) == 1 and state[0].shape == (6,)


def test_the_same_timesteps_are_tabulated_once():
    clock, asked = StepClock(), []
    clock.register(source(table(3, 0), asked), 3)
    for timesteps in (TIMESTEPS, TIMESTEPS.copy(), TIMESTEPS[:2], TIMESTEPS):
        clock.follow(timesteps)
    assert asked == [TIMESTEPS.tolist(), TIMESTEPS[:2].tolist(), TIMESTEPS.tolist()]


def test_a_clock_without_timesteps_says_what_to_call():
    clock = StepClock()
    place = clock.register(source(table(3, 0)), 3)
    for use in (lambda: clock.row(place), lambda: clock.set(0)):
        with pytest.raises(
            DitqError, match=r"does not know the run's timesteps: call clock.follow\(timesteps\)"
        ):
            use()
    clock.follow(TIMESTEPS)
    clock.register(source(table(3, 1)), 3)
    with pytest.raises(DitqError, match="clock.follow"):
        clock.row(place)


@pytest.mark.parametrize("step", [-1, 4])
def test_a_step_beyond_the_run_is_refused(step):
    clock = StepClock()
    clock.follow(TIMESTEPS)
    with pytest.raises(IndexError, match=f"step {step} on a clock of 4 steps"):
        clock.set(step)


def test_the_clock_of_a_model_is_found_and_two_are_an_error():
    clock = StepClock()
    assert clock_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU())) is None
    assert clock_of(nn.Sequential(Reader(clock), nn.Linear(3, 3), nn.Sequential(Reader(clock)))) is clock
    with pytest.raises(DitqError, match="Sequential: 2 step clocks"):
        clock_of(nn.Sequential(Reader(clock), Reader(StepClock())))
