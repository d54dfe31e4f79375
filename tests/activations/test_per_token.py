"""Steps per token against a loop over tokens; they hold at any timestep, and depend on no other token or picture."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.activations import PerToken, described, method_for, read_quant_config, write_quant_config
from ditq.core import affine
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedConv2d, QuantizedLinear, StepClock
from ditq.weights.quantized_block import InputGrid
from tests.activations.invented import FC2, folder, weights_of

TIMESTEPS = np.array([500], np.float32)


def grid(bits, part=1.0, smooth=None) -> TimestepGrid:
    return TimestepGrid(TIMESTEPS, GridRows.of([bits], np.ones(1), per_token=np.array([part])), smooth)


def of_tokens(x, bits, part=1.0) -> np.ndarray:
    """Token by token, in float64: what lies along the last axis is a token."""
    spec, x = Spec(bits), np.asarray(x, np.float64)
    result = np.zeros_like(x)
    for at in np.ndindex(x.shape[:-1]):
        step = part * np.abs(x[at]).max() / spec.qmax or 1.0
        result[at] = np.clip(np.rint(x[at] / step), spec.qmin, spec.qmax) * step
    return result


def tokens(*shape) -> mx.array:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape) * rng.uniform(0.01, 30, (*shape[:-1], 1))
    x[0, 0] = 0
    return mx.array(x.astype(np.float32))


@pytest.mark.parametrize("spec", [Spec(4), Spec(8, False), Spec(4, True, 64)], ids=str)
@pytest.mark.parametrize("backend", ["codes", "packed"])
@pytest.mark.parametrize("part", [1.0, 0.7])
def test_a_layer_is_the_loop_over_its_tokens(spec, backend, part):
    clock, x, smooth = StepClock(), tokens(3, 5, 128), mx.linspace(0.5, 2, 128)
    w = mx.array(np.random.default_rng(1).standard_normal((6, 128)).astype(np.float32))
    weight = QuantizedWeight(*affine.round_to_nearest(w, spec), spec, smooth)
    layer = QuantizedLinear(weight, mx.arange(6.0), grid(6, part, smooth), clock, backend)
    clock.follow(np.array([900.0, 10.0]))
    wanted = of_tokens(x / smooth, 6, part) @ np.array(weight.values(), np.float64).T + np.arange(6)
    for step in range(2):
        clock.set(step)
        np.testing.assert_allclose(layer(x), wanted, rtol=1e-4, atol=2e-3)
    assert mx.array_equal(layer(x)[1:2], layer(x[1:2])) and mx.isfinite(layer(x)).all().item()
    np.testing.assert_allclose(
        layer(tokens(3, 128)), layer(tokens(3, 128)[:, None])[:, 0], rtol=1e-5, atol=1e-4
    )


def test_a_convolution_has_a_step_per_picture():
    conv, clock, x = nn.Conv2d(4, 5, 3, stride=2, padding=1), StepClock(), tokens(3, 6, 7, 4)
    weight = QuantizedWeight(*affine.round_to_nearest(conv.weight.reshape(5, -1), Spec(8)), Spec(8))
    layer = QuantizedConv2d(weight, conv, grid(6), clock, "codes")
    clock.follow(TIMESTEPS)
    rounded = of_tokens(np.array(x).reshape(3, -1), 6).reshape(x.shape)
    kernel = weight.values().reshape(conv.weight.shape)
    wanted = mx.conv2d(mx.array(rounded.astype(np.float32)), kernel, 2, 1) + conv.bias
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-4, atol=1e-4)
    assert mx.array_equal(layer(x)[1:2], layer(x[1:2]))
    found = InputGrid.at(grid(6).rows, slice(None), None, pixels=True)(x)
    np.testing.assert_allclose(found, rounded, rtol=1e-4, atol=1e-5)


def test_the_block_that_is_optimised_sees_the_same_values():
    x = tokens(3, 5, 16)
    found = InputGrid.at(grid(6, 0.7).rows, mx.array([0, 0, 0]), None)(x)
    np.testing.assert_allclose(found, of_tokens(x, 6, 0.7), rtol=1e-4, atol=1e-5)


def test_the_config_keeps_the_kind(tmp_path):
    statistics, path = folder(tmp_path), tmp_path / "quant_config.json"
    method = method_for({"method": "per-token", "bits": 6, "part": 0.9}, Spec(4), "r")
    assert method == PerToken(6, 0.9) and described(method) == {"name": "per-token", "bits": 6, "part": 0.9}
    decision = method.decide(statistics, weights_of)
    write_quant_config(path, statistics, decision, {"summary": {}})
    table = read_quant_config(path)
    assert set(table.grids) == set(statistics.layers) and decision.kinds[FC2] == "per-token"
    rows = table.grids[FC2].at(np.array([3.0]))
    assert np.array(rows.per_token).tolist() == [np.float32(0.9)] and rows.bits == [6] and rows.shift is None


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"bits": 9}, "bits: got 9; expected from 2 to 8"),
        ({"bits": 8, "part": 1.5}, "part: got 1.5; expected above 0 and at most 1"),
        ({"bits": 8, "scale": "max"}, "got scale"),
    ],
)
def test_what_no_grid_per_token_has_is_refused(asked, says):
    with pytest.raises(UserError, match=says):
        method_for({"method": "per-token", **asked}, Spec(4), "r")


@pytest.mark.parametrize(
    ("own", "says"),
    [
        ({"per_token": [0.0]}, "per_token: got"),
        ({"per_token": [2.0]}, "expected parts of the greatest"),
        ({"per_token": [1.0], "below": [1.0]}, "per-token grid with steps per token"),
        ({"per_token": [1.0], "shift": [[0.1]]}, "per-token grid with a shift"),
        ({"below": [0.3]}, "powers of two from"),
    ],
)
def test_senseless_rows_are_refused(own, says):
    rows = GridRows.of([8], np.ones(1), **{name: np.array(value) for name, value in own.items()})
    with pytest.raises(UserError, match=says):
        rows.check("layer")
