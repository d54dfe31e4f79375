"""Amounts of work and this machine's speed."""

import numpy as np
import pytest

from ditq.core.cost import Cost, Speed, machine_speed, process_memory, timed
from ditq.core.files import npz_bytes, npz_size

UNIT = Speed(rows=1, flops=10, values=100, counted=1000, bytes=10_000, files=100_000)


def test_amounts_add_up_and_of_memory_the_largest_counts():
    both = Cost(rows=1, flops=2, memory=30) + Cost(rows=4, bytes=5, memory=20)
    assert both == Cost(rows=5, flops=2, bytes=5, memory=30)
    assert both.times(3) == Cost(rows=15, flops=6, bytes=15, memory=30)


def test_a_speed_turns_each_amount_into_seconds():
    assert UNIT.seconds(Cost(1, 2, 3, 4, 5, 6, seconds=0.5, memory=1e9)) == 654321.5
    assert UNIT.seconds(Cost()) == 0


def test_this_machine_is_measured():
    speed = machine_speed(2.5)
    assert speed.rows == 2.5
    assert 0 < speed.flops < 1e-6 and 0 < speed.values < 1e-5 and 0 < speed.counted < 1e-5
    assert 0 <= speed.bytes < 1e-5 and 0 < speed.files < 10


def test_memory_of_this_process_counts_what_it_holds():
    before = process_memory()
    held = np.ones(before // 4, np.float64)  # twice as much again
    assert process_memory() >= held.nbytes > before


def test_a_duration_is_the_median_after_a_first_call():
    calls = []
    assert timed(lambda: calls.append(1), least=3, budget=0) >= 0 and len(calls) in (1, 4)


@pytest.mark.parametrize("names", [["x"], ["a.long.path::sample", "b", "c"], []])
def test_bytes_of_an_npz_are_told_from_shapes(names):
    arrays = {name: np.zeros((3, 5 + number), np.float16) for number, name in enumerate(names)}
    arrays |= {"scalar": np.array(1, np.int64)}
    told = npz_size({name: (array.shape, array.itemsize) for name, array in arrays.items()})
    assert told == npz_bytes(arrays)
