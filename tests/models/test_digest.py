"""The digest of a network's weights tells any two networks apart that compute something else."""

import time

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.models import load
from ditq.models.digest import SAMPLED, _places, weights_digest


class Small(nn.Module):
    def __init__(self, dtype: mx.Dtype = mx.float32):
        super().__init__()
        rng = np.random.default_rng(0)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.large = nn.Linear(100, 100, bias=False)
        for layer in (self.first, self.second, self.large):
            layer.weight = mx.array(rng.standard_normal(layer.weight.shape)).astype(dtype)
        self.first.bias, self.second.bias = mx.zeros((8,)), mx.ones((8,))


def changed(place: int) -> str:
    network = Small()
    flat = np.array(network.large.weight).reshape(-1)
    flat[place] = np.nextafter(flat[place], 9)
    network.large.weight = mx.array(flat.reshape(100, 100))
    return weights_digest(network)


def test_the_same_weights_have_the_same_digest():
    assert weights_digest(Small()) == weights_digest(Small())
    assert weights_digest(load("mini").network()) == weights_digest(load("mini").network())
    assert len(weights_digest(Small())) == 16


def test_every_value_of_a_small_tensor_counts():
    network, seen = Small(), {weights_digest(Small())}
    for row in range(8):
        for column in range(8):
            weight = Small().first.weight
            weight[row, column] += 1e-6
            network.first.weight = weight
            seen.add(weights_digest(network))
    assert len(seen) == 65


def test_sampled_values_of_a_large_tensor_count():
    places = _places(100 * 100)
    assert places.min() >= 0 and places.max() < 100 * 100 and len(set(places % 100)) == 100
    assert len(set(places)) > 0.9 * SAMPLED
    digests = {changed(place) for place in places[:20].tolist()}
    assert len(digests) == 20 and weights_digest(Small()) not in digests


def test_places_exist_in_tensors_of_any_size():
    for size in (SAMPLED + 1, 10**6 + 3, 2**31 + 11):
        places = _places(size)
        assert places.min() >= 0 and places.max() < size and places.max() > 0.99 * size


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_another_dtype_is_another_digest(dtype):
    assert weights_digest(Small(dtype)) != weights_digest(Small())


def test_replaced_layers_are_seen_after_an_earlier_call():
    network = Small()
    before = weights_digest(network)
    network.first, network.second = network.second, network.first
    assert weights_digest(network) != before
    network.first, network.second = network.second, network.first
    assert weights_digest(network) == before
    network.first.bias[3] = -0.0
    assert weights_digest(network) != before
    network.first = nn.QuantizedLinear.from_linear(nn.Linear(64, 8), 64, 4)
    assert weights_digest(network) != before


def test_it_is_cheap():
    network = load("mini").network()
    weights_digest(network)
    started = time.perf_counter()
    weights_digest(network)
    assert time.perf_counter() - started < 0.5
