"""The sums of products equal NumPy's in float64, however the rows are cut."""

import numpy as np
import pytest

from ditq.weights.columns.gram import CrossGram, Gram


@pytest.mark.parametrize("columns", [1, 7, 300, 600])  # less than a tile, between, more than two
def test_sums_equal_those_of_all_rows(columns):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((90, columns), dtype=np.float32)
    y = rng.standard_normal((90, 5), dtype=np.float32)
    gram, cross = Gram(columns), CrossGram(columns, 5)
    for part in np.split(np.arange(90), [1, 40]):
        gram.add(x[part])
        cross.add(x[part], y[part])
    expected = x.astype(np.float64).T @ x
    np.testing.assert_allclose(gram.whole(), expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(cross.whole(), x.astype(np.float64).T @ y, rtol=1e-4, atol=1e-3)
    assert np.array_equal(gram.whole(), gram.whole().T)


def test_more_rows_may_follow():
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    gram = Gram(2)
    gram.add(x[:2])
    gram.whole()
    gram.add(x[2:])
    assert np.array_equal(gram.whole(), x.T @ x)
