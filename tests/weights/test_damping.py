"""The ladder is climbed to its best rung, and a matrix that cannot be factored is rescued in order."""

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.weights.damping import best, damped_factor, rungs


@pytest.mark.parametrize("least", range(7))
def test_best_rung_is_found_wherever_it_is(least):
    asked = []

    def judge(amount):
        asked.append(amount)
        return abs(amount - least)

    amount, tried = best(tuple(range(7)), judge)
    assert amount == least
    assert tried == [(a, abs(a - least)) for a in sorted(asked)] and len(set(asked)) == len(asked)


def test_search_ends_where_the_ladder_is_flat():
    errors = [3.0, 2.0, 1.0, 0.999, 0.5]
    assert best(tuple(range(5)), lambda amount: errors[amount]) == (3, [(2, 1.0), (3, 0.999)])
    errors[3] = 1.001
    assert best(tuple(range(5)), lambda amount: errors[amount]) == (2, [(2, 1.0), (3, 1.001)])
    errors[3] = 1.1  # a real rise: then down
    assert best(tuple(range(5)), lambda amount: errors[amount])[1] == [(1, 2.0), (2, 1.0), (3, 1.1)]


def test_one_amount_is_not_judged():
    assert best((0.5,), lambda _: pytest.fail("judged")) == (0.5, [])


def test_rungs():
    assert rungs(0.1) == (0.1,) and rungs([3, 1]) == (1, 3)
    for wrong in (-1.0, (), (0.1, float("nan"))):
        with pytest.raises(UserError, match="damping"):
            rungs(wrong)


def matrix(least):
    """Eigenvalues from 1 down to `least`, in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))
    values = np.concatenate([np.ones(39), [least]])
    return ((basis * values) @ basis.T).astype(np.float32)


def test_plain_factor():
    factor, amount, notes = damped_factor(matrix(0.5), 0.25)
    assert factor is not None and (amount, notes) == (0.25, [])
    assert np.allclose(factor.lower @ factor.lower.T, matrix(0.5) + 0.25 * np.eye(40), atol=1e-5)


def test_damping_is_raised_last():
    factor, amount, notes = damped_factor(matrix(-1e-3), 1e-5)
    assert factor is not None and amount == pytest.approx(1e-2)
    assert notes[0] == "float64" and notes[-1].startswith("damping raised to")


def test_hopeless_matrix():
    factor, _, notes = damped_factor(matrix(-1e3), 0.0)
    assert factor is None and notes[-1] == "no factor"
