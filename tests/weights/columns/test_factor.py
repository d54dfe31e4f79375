"""Symmetric matrices are moved in place as NumPy moves copies, below and above the size of a tile."""

import numpy as np
import pytest

from ditq.weights.columns.factor import TILE, mirror, reorder

SIZES = [1, TILE - 1, TILE, 2 * TILE + 3]


@pytest.mark.parametrize("size", SIZES)
def test_reordered(size):
    rng = np.random.default_rng(0)
    matrix, order = rng.standard_normal((size, size), dtype=np.float32), rng.permutation(size)
    expected = matrix[np.ix_(order, order)]
    reorder(matrix, order)
    assert np.array_equal(matrix, expected)


@pytest.mark.parametrize("size", SIZES)
def test_mirrored(size):
    matrix = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    expected = np.tril(matrix) + np.tril(matrix, -1).T
    mirror(matrix)
    assert np.array_equal(matrix, expected)
