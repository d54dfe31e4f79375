"""Two half-lines: the search against brute force, and the layer against the two products of the paper."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.activations import DualScale, Fixed, find_grid, method_for, read_quant_config, write_quant_config
from ditq.core import affine
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedConv2d, QuantizedLinear, StepClock
from ditq.weights.quantized_block import InputGrid
from tests.activations.invented import FC2, folder, weights_of
from tests.activations.test_grid_search import heavy, inputs_of

TIMESTEPS = np.array([900, 300], np.float32)


def on_halves(x, scale, below, spec) -> np.ndarray:
    """The definition, in float64: each half rounded by itself."""
    x = np.asarray(x, np.float64)
    above = np.clip(np.rint(np.maximum(x, 0) / scale), 0, spec.qmax) * scale
    return above + np.clip(np.rint(np.minimum(x, 0) / (scale * below)), spec.qmin, 0) * scale * below


def grid(bits, below=(2.0**-5, 2.0**-3)) -> TimestepGrid:
    scale = np.array([0.04, 0.03]) * 2 ** (8 - bits)
    return TimestepGrid(TIMESTEPS, GridRows.of([bits] * 2, scale, below=np.array(below)))


def gelu(seed, *shape) -> mx.array:
    return nn.gelu(mx.array(np.random.default_rng(seed).standard_normal(shape).astype(np.float32) * 2))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_search_finds_what_brute_force_over_both_steps_finds(bits):
    x, spec, norms = np.maximum(heavy(3), -0.17), Spec(bits), np.ones(16)
    found = find_grid(inputs_of(x, 5000), bits, "dual-scale", norm=2.0)
    full, best = x.max() / spec.qmax, np.inf
    for below in 2.0 ** np.arange(-8, 3):
        for ratio in np.geomspace(0.02, 1, 80):
            error = float((np.square(on_halves(x, full * ratio, below, spec) - x) * norms).sum(axis=1).mean())
            best = min(best, error)
    own = on_halves(x, float(np.array(found.scale)[0]), float(np.array(found.below)[0]), spec)
    assert float(np.square(own - x).sum(axis=1).mean()) <= 1.02 * best
    found.check("grid")


def test_the_full_range_clips_nothing():
    x = np.maximum(heavy(4), -0.3)
    found = find_grid(inputs_of(x, 5000), 6, "dual-scale", "max")
    scale, below = (float(np.array(part)[0]) for part in (found.scale, found.below))
    assert scale * 31 >= x.max() * (1 - 1e-3) and scale * below * 32 >= 0.3 * (1 - 1e-3) > scale * below * 16


@pytest.mark.parametrize("spec", [Spec(4), Spec(8, False), Spec(4, True, 64), Spec(5, False, 32)], ids=str)
@pytest.mark.parametrize("backend", ["codes", "packed"])
def test_one_product_is_the_sum_of_the_two_products_of_the_paper(spec, backend):
    clock, activations, x = StepClock(), grid(6), gelu(1, 2, 9, 256)
    w = mx.array(np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32))
    weight, bias = QuantizedWeight(*affine.round_to_nearest(w, spec), spec), mx.arange(6.0)
    layer = QuantizedLinear(weight, bias, activations, clock, backend)
    clock.follow(TIMESTEPS)
    for step in range(2):
        clock.set(step)
        scale, below = (
            float(np.array(part)[step]) for part in (activations.rows.scale, activations.rows.below)
        )
        wanted = on_halves(x, scale, below, Spec(6)) @ np.array(weight.values(), np.float64).T + np.arange(6)
        np.testing.assert_allclose(layer(x), wanted, rtol=1e-4, atol=2e-4)
        assert mx.array_equal(layer(x)[:1], layer(x[:1])), "a picture depends on the one beside it"


def test_a_convolution_pads_with_zero():
    conv, clock, x = nn.Conv2d(4, 5, 3, padding=1), StepClock(), gelu(2, 2, 6, 7, 4)
    matrix = conv.weight.reshape(5, -1)
    weight = QuantizedWeight(*affine.round_to_nearest(matrix, Spec(8)), Spec(8))
    layer = QuantizedConv2d(weight, conv, grid(8), clock, "codes")
    clock.follow(TIMESTEPS)
    rounded = mx.array(on_halves(x, 0.04, 2.0**-5, Spec(8)).astype(np.float32))
    wanted = mx.conv2d(rounded, weight.values().reshape(conv.weight.shape), 1, 1) + conv.bias
    np.testing.assert_allclose(layer(x), wanted, atol=1e-4)


def test_a_step_is_compiled_once_for_all_rows():
    clock, traces = StepClock(), []
    w = mx.array(np.random.default_rng(0).standard_normal((6, 256)).astype(np.float32))
    weight = QuantizedWeight(*affine.round_to_nearest(w, Spec(4)), Spec(4))
    layer = QuantizedLinear(weight, None, grid(8), clock, "codes")

    def forward(x):
        traces.append(1)
        return layer(x)

    compiled = mx.compile(forward, inputs=clock.state)
    clock.follow(TIMESTEPS)
    for step in range(2):
        clock.set(step)
        assert mx.allclose(compiled(gelu(1, 3, 256)), layer(gelu(1, 3, 256)), atol=1e-5)
    assert len(traces) == 1


def test_the_block_that_is_optimised_sees_the_same_values():
    rows, x = grid(6).rows, gelu(3, 2, 9, 16)
    found = InputGrid.at(rows, mx.array([1, 0]), None)(x)
    for sample, step in ((0, 1), (1, 0)):
        scale, below = (float(np.array(part)[step]) for part in (rows.scale, rows.below))
        np.testing.assert_allclose(found[sample], on_halves(x[sample], scale, below, Spec(6)), atol=1e-5)


def test_only_inputs_that_gain_have_two_steps_and_the_config_keeps_them(tmp_path):
    statistics = folder(tmp_path)
    method = method_for({"method": "dual-scale", "bits": 6}, Spec(4), "r")
    assert type(method) is DualScale and method.bits == Fixed(6)
    decision = method.decide(statistics, weights_of)
    assert decision.kinds[FC2] == "dual-scale" and set(decision.kinds.values()) == {"dual-scale", "none"}
    assert set(decision.reports[FC2]["relative_error"]) == {"none", "dual-scale"}
    path = tmp_path / "quant_config.json"
    write_quant_config(path, statistics, decision, {"summary": {}})
    rows = read_quant_config(path).grids[FC2].at(decision.timesteps)
    for name, array in decision.rows[FC2].arrays.items():
        assert mx.array_equal(array, rows.arrays[name]), name
    sound = path.read_text()
    path.write_text(sound.replace('"dual-scale": "0.1.0"', ""))
    with pytest.raises(
        UserError, match="grids of kinds: got dual-scale; expected none, as its key kinds says"
    ):
        read_quant_config(path)
    changed = sound.replace('"below": 0.', '"below": 0.3')
    path.write_text(changed)
    with pytest.raises(UserError, match="below: got .*; expected powers of two"):
        read_quant_config(path)
    path.write_text(changed.replace('"dual-scale": "0.1.0"', '"three-scale": "7.1.0"'))
    with pytest.raises(UserError, match=r"kinds: got 'three-scale'.*use ditq 7\.1\.0 or a later version"):
        read_quant_config(path)
