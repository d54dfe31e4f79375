"""Float layers that compute each picture alone: the same values, to the bit whatever lies beside a picture."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.nn import alone
from ditq.nn.each_alone import each_alone

LAYERS = {
    "linear": (nn.Linear(192, 768), (8, 64, 192)),
    "one row each": (nn.Linear(192, 1152), (8, 1, 192)),
    "convolution": (nn.Conv2d(16, 96, 3, 2, 1), (8, 16, 16, 16)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_no_picture_depends_on_its_batch(name):
    layer, shape = LAYERS[name]
    made, x = alone(layer), mx.random.normal(shape, key=mx.random.key(0))
    whole = np.array(made(x))
    assert np.allclose(whole, np.array(layer(x)), atol=1e-5)
    for rows in (slice(0, 1), slice(3, 5), slice(2, 8)):
        assert np.array_equal(np.array(made(x[rows])), whole[rows])


def test_pictures_may_lie_on_the_second_axis():
    layer, x = nn.Linear(192, 1152), mx.random.normal((28, 8, 192), key=mx.random.key(1))
    made = alone(layer, axis=1)
    whole = np.array(made(x))
    assert np.allclose(whole, np.array(layer(x)), atol=1e-5)
    for rows in (slice(0, 1), slice(3, 5)):
        assert np.array_equal(np.array(made(x[:, rows])), whole[:, rows])


@pytest.mark.parametrize("name", LAYERS)
def test_the_layer_keeps_its_kind_and_shares_its_parameters(name):
    layer, _ = LAYERS[name]
    made = alone(layer)
    assert isinstance(made, type(layer)) and type(layer) in (nn.Linear, nn.Conv2d)
    for (key, one), (other_key, other) in zip(
        tree_flatten(layer.parameters()), tree_flatten(made.parameters()), strict=True
    ):
        assert key == other_key and one is other


def test_rows_without_pictures_are_computed_together():
    seen = []

    def compute(x):
        seen.append(x.shape)
        return x * 2

    assert mx.array_equal(each_alone(compute, mx.ones((5, 3))), 2 * mx.ones((5, 3)))
    assert mx.array_equal(each_alone(compute, mx.ones((2, 4, 3))), 2 * mx.ones((2, 4, 3)))
    assert seen == [(5, 3), (1, 4, 3), (1, 4, 3)]
