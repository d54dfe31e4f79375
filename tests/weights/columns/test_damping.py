"""The ladder is climbed to its best rung, and a matrix that cannot be factored is rescued in order."""

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.weights.columns.damping import DampedHessian, best, rungs


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
    errors = [0.5, 0.999, 1.0, 2.0, 3.0]
    assert best(tuple(range(5)), lambda amount: errors[amount]) == (1, [(1, 0.999), (2, 1.0)])
    errors[1] = 1.001
    assert best(tuple(range(5)), lambda amount: errors[amount]) == (2, [(1, 1.001), (2, 1.0)])
    errors[1] = 1.1  # a real rise: then up
    assert best(tuple(range(5)), lambda amount: errors[amount])[1] == [(1, 1.1), (2, 1.0), (3, 2.0)]


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
    factor, amount, notes = DampedHessian(matrix(0.5)).at(0.25)
    assert factor is not None and (amount, notes) == (0.25, [])
    lower = np.tril(factor.lower)
    assert np.allclose(lower @ lower.T, matrix(0.5) + 0.25 * np.eye(40), atol=1e-5)


def test_one_factor_after_the_other_in_one_memory():
    hessian = DampedHessian(matrix(0.5))
    for amount in (0.25, 1.0, 1.0, 1e-3, 0.25):
        factor, used, _ = hessian.at(amount)
        assert factor is not None and used == amount
        lower = np.tril(factor.lower)
        assert np.allclose(lower @ lower.T, matrix(0.5) + amount * np.eye(40), atol=1e-5)
    assert hessian.at(0.25)[0] is factor
    assert np.array_equal(hessian.diagonal, np.diagonal(matrix(0.5)))


def test_columns_in_any_order():
    """Also after a factor has taken the other triangle; a column without input gets the mean of the diagonal."""
    rng = np.random.default_rng(0)
    whole = matrix(0.5)
    whole[3], whole[:, 3] = 0, 0
    hessian, alive = DampedHessian(whole.copy()), whole.copy()
    alive[3, 3] = np.diagonal(whole).mean()
    for _ in range(3):
        order = rng.permutation(40)
        hessian.put_in_order(order)
        factor, *_ = hessian.at(0.25)
        assert factor is not None
        lower, expected = np.tril(factor.lower), alive[np.ix_(order, order)]
        assert np.allclose(lower @ lower.T, expected + 0.25 * np.eye(40), atol=1e-5)
        assert np.array_equal(hessian.whole(), expected)
    assert np.array_equal(hessian.diagonal, np.diagonal(whole))


def test_damping_is_raised_last():
    factor, amount, notes = DampedHessian(matrix(-1e-3)).at(1e-5)
    assert factor is not None and amount == pytest.approx(1e-2)
    assert notes[0] == "float64" and notes[-1].startswith("damping raised to")


def test_hopeless_matrix():
    factor, _, notes = DampedHessian(matrix(-1e3)).at(0.0)
    assert factor is None and notes[-1] == "no factor"
