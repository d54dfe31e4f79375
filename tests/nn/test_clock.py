"""The step clock: nearest calibrated timesteps, one row at a time, one clock per model."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.core.errors import DitqError
from ditq.nn import StepClock, clock_of

TIMESTEPS = np.array([1000, 900, 400, 10], np.float32)


def table(columns: int, seed: int) -> mx.array:
    return mx.array(np.random.default_rng(seed).standard_normal((4, columns)).astype(np.float32))


class Reader(nn.Module):
    """A layer with nothing but a clock."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock


@pytest.mark.parametrize("timesteps", [[1000.0, 960.0, 940.0, 651.0, 649.0, 200.0, 0.0], [3.0, 1200.0]])
def test_a_sampler_follows_the_nearest_calibrated_timestep(timesteps):
    wanted = [min(range(4), key=lambda row: abs(float(TIMESTEPS[row]) - t)) for t in timesteps]
    got = StepClock(TIMESTEPS).follow(np.array(timesteps))
    assert got.tolist() == wanted


def test_the_earlier_of_two_equally_near_is_taken():
    assert StepClock(TIMESTEPS).follow(np.array([950.0, 650.0, 205.0])).tolist() == [0, 1, 2]


def test_one_timestep_serves_all():
    assert StepClock(TIMESTEPS[:1]).follow(np.array([1000.0, 3.0])).tolist() == [0, 0]


def test_every_table_finds_its_columns_however_late_it_came():
    clock, tables = StepClock(TIMESTEPS), [table(3, 0), table(1, 1), table(5, 2)]
    places = [clock.register(each) for each in tables[:2]]
    clock.set(1)
    assert mx.array_equal(clock.row(places[0]), tables[0][1])
    places.append(clock.register(tables[2]))
    for row in (2, 0, 3):
        clock.set(row)
        for place, each in zip(places, tables, strict=True):
            assert mx.array_equal(clock.row(place), each[row])


def test_the_state_is_one_list_for_ever():
    clock = StepClock(TIMESTEPS)
    state = clock.state
    clock.register(table(3, 0))
    clock.set(2)
    clock.register(table(3, 1))
    clock.set(1)
    assert clock.state is state and len(state) == 1 and state[0].shape == (6,)


@pytest.mark.parametrize("step", [-1, 4])
def test_a_step_beyond_the_clock_is_refused(step):
    with pytest.raises(IndexError, match=f"step {step} on a clock of 4 steps"):
        StepClock(TIMESTEPS).set(step)


def test_a_table_of_other_steps_is_refused():
    with pytest.raises(ValueError, match="a table of 2 steps on a clock of 4"):
        StepClock(TIMESTEPS).register(mx.zeros((2, 3)))


def test_the_clock_of_a_model_is_found_and_two_are_an_error():
    clock = StepClock(TIMESTEPS)
    assert clock_of(nn.Sequential(nn.Linear(3, 3), nn.ReLU())) is None
    assert clock_of(nn.Sequential(Reader(clock), nn.Linear(3, 3), nn.Sequential(Reader(clock)))) is clock
    with pytest.raises(DitqError, match="Sequential: 2 step clocks"):
        clock_of(nn.Sequential(Reader(clock), Reader(StepClock(TIMESTEPS))))
