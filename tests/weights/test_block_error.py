"""Which rows judge a block: whole pictures, the same ones for every method."""

from dataclasses import replace

import numpy as np
import pytest

from ditq.weights.block_error import held_out_rows
from tests.weights.problems import random_problem


@pytest.fixture(scope="module")
def problem():
    return random_problem(rows=80)


@pytest.mark.parametrize(
    ("pictures", "held"),
    [
        (np.repeat(np.arange(40), 2), [7, 15, 23, 31, 39]),
        (np.tile(np.arange(10), 8), [9]),  # step by step: fewer than 16, so one
        (np.repeat([5, 3, 9, 7], 20), [7]),  # numbered as the calibration data numbers them
        (None, [7, 15, 23, 31, 39, 47, 55, 63, 71, 79]),
    ],
)
def test_all_rows_of_every_eighth_picture_are_held_out(problem, pictures, held):
    used, judged = held_out_rows(replace(problem, pictures=pictures))
    of = np.arange(80) if pictures is None else pictures
    assert sorted(set(of[judged].tolist())) == held
    assert not set(of[used].tolist()) & set(held)
    assert sorted([*used, *judged]) == list(range(80))


def test_the_same_pictures_judge_every_block_and_seed(problem):
    for other in (replace(problem, seed=9), replace(problem, path="another")):
        assert np.array_equal(held_out_rows(problem)[1], held_out_rows(other)[1])


def test_few_rows_or_pictures_serve_for_both(problem):
    for few in (random_problem(rows=31), replace(problem, pictures=np.repeat(np.arange(2), 40))):
        used, judged = held_out_rows(few)
        assert used.tolist() == judged.tolist() == list(range(few.rows))
