"""Quantized convolutions against loops in NumPy: int64 sums bit for bit, fake quantization in float64, zero padding."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.core import affine
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import DitqError, UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedConv2d, StepClock, WeightOnlyConv2d

BACKENDS = ["packed", "codes"]
TIMESTEPS = np.array([900, 500, 100], np.float32)
SHAPES = [(1, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 0), ((3, 1), 1, (1, 0))]
"""Kernel, stride, padding."""


def loops(x, kernel, stride, padding) -> np.ndarray:
    """The convolution of NHWC inputs, product by product, in the dtype of its inputs."""
    (down, across), (up, left) = stride, padding
    out, high, wide, _ = kernel.shape
    batch, height, width, channels = x.shape
    padded = np.zeros((batch, height + 2 * up, width + 2 * left, channels), x.dtype)
    padded[:, up : up + height, left : left + width] = x
    rows, columns = (padded.shape[1] - high) // down + 1, (padded.shape[2] - wide) // across + 1
    y = np.zeros((batch, rows, columns, out), x.dtype)
    for r in range(rows):
        for c in range(columns):
            patch = padded[:, r * down : r * down + high, c * across : c * across + wide]
            for o in range(out):
                y[:, r, c, o] = (patch * kernel[o]).sum(axis=(1, 2, 3))
    return y


def convolution(shape, channels=32, out=5, bias=True) -> nn.Conv2d:
    kernel, stride, padding = shape
    return nn.Conv2d(channels, out, kernel, stride, padding, bias=bias)


def rounded(layer, spec, smooth=None) -> QuantizedWeight:
    kernel = layer.weight if smooth is None else layer.weight * smooth
    return QuantizedWeight(*affine.round_to_nearest(kernel.reshape(len(kernel), -1), spec), spec, smooth)


def grid(channels=None, smooth=None, bits=6) -> TimestepGrid:
    rng, spec = np.random.default_rng(1), Spec(bits)
    shift = None if channels is None else mx.array(rng.uniform(-1, 1, (3, channels)).astype(np.float32))
    scale = mx.array(rng.uniform(0.05, 0.1, 3).astype(np.float32))
    bounds = (mx.full((3,), float(bound)) for bound in (spec.qmin, spec.qmax))
    return TimestepGrid(TIMESTEPS, GridRows(scale, *bounds, shift), smooth)


def on_grid(x, activations, step) -> np.ndarray:
    x, rows = np.array(x, np.float32), activations.rows
    if activations.smooth is not None:
        x = x / np.array(activations.smooth)
    scale = np.array(rows.scale)[step]
    shift = 0.0 if rows.shift is None else np.array(rows.shift)[step]
    codes = np.clip(np.rint((x - shift) / scale), np.array(rows.qmin)[step], np.array(rows.qmax)[step])
    return codes * np.float64(scale) + shift


def same_but_for_edges(got, wanted) -> bool:
    """Equal, save where an input on the very edge of two codes fell to the other side in float32."""
    close = np.abs(np.array(got) - wanted) < 1e-4 * np.abs(wanted).max()
    return close.mean() >= 0.9


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spec", [Spec(4), Spec(8, False)], ids=str)
def test_sums_equal_int64_bit_for_bit(backend, shape, spec):
    rng, layer = np.random.default_rng(0), convolution(shape, bias=False)
    kernel = rng.integers(spec.qmin, spec.qmax + 1, layer.weight.shape)
    kernel[0], kernel[1] = spec.qmin, spec.qmax
    x = rng.integers(-128, 128, (2, 6, 5, 32))
    x[0] = -128
    point = 0 if spec.symmetric else 3
    codes = mx.array(kernel.reshape(5, -1).astype(np.int32))
    weight = QuantizedWeight(codes, mx.ones((5, 1)), mx.full((5, 1), float(point)), spec)
    rows, clock = GridRows(mx.ones(1), mx.array([-128.0]), mx.array([127.0])), StepClock()
    quantized = QuantizedConv2d(weight, layer, TimestepGrid(TIMESTEPS[:1], rows), clock, backend)
    clock.follow(TIMESTEPS[:1])
    wanted = loops(x.astype(np.int64), kernel.astype(np.int64) - point, layer.stride, layer.padding)
    assert np.abs(wanted).max() <= 2**24
    got = np.array(quantized(mx.array(x.astype(np.float32))))
    assert got.shape == wanted.shape and np.array_equal(got.astype(np.int64), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", [Spec(4), Spec(3, False), Spec(4, True, 32), Spec(5, False, 32)], ids=str)
@pytest.mark.parametrize("channels", [None, 1, 32])
@pytest.mark.parametrize("smoothed", [False, True])
def test_output_equals_float64_fake_quantization_at_every_step(backend, spec, channels, smoothed):
    smooth = mx.array(np.linspace(0.5, 2, 32).astype(np.float32)) if smoothed else None
    layer, activations, clock = convolution((3, 2, 1)), grid(channels, smooth), StepClock()
    weight = rounded(layer, spec, smooth)
    quantized = QuantizedConv2d(weight, layer, activations, clock, backend)
    x = mx.array(np.random.default_rng(2).standard_normal((2, 6, 5, 32)).astype(np.float32))
    kernel = np.array(weight.values(), np.float64).reshape(layer.weight.shape)
    clock.follow(TIMESTEPS)
    for step in (2, 0, 1):
        clock.set(step)
        y = loops(on_grid(x, activations, step), kernel, layer.stride, layer.padding)
        assert same_but_for_edges(quantized(x), y + np.array(layer.bias, np.float64))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding_is_zero_where_the_grid_has_no_code_for_zero(backend, shape):
    """A grid far from zero, inputs that stand on it: whatever else the padding were, the border would show it."""
    layer, clock = convolution(shape), StepClock()
    scale, shift = np.float32(0.5), np.linspace(9.75, 11, 32).astype(np.float32)[None]
    rows = GridRows(mx.array([0.5]), mx.array([-8.0]), mx.array([7.0]), mx.array(shift))
    weight = rounded(layer, Spec(8))
    quantized = QuantizedConv2d(weight, layer, TimestepGrid(TIMESTEPS[:1], rows), clock, backend)
    clock.follow(TIMESTEPS[:1])
    codes = np.random.default_rng(3).integers(-8, 8, (1, 5, 4, 32))
    x = codes * scale + shift
    kernel = np.array(weight.values(), np.float64).reshape(layer.weight.shape)
    wanted = loops(x.astype(np.float64), kernel, layer.stride, layer.padding) + np.array(layer.bias)
    got = np.array(quantized(mx.array(x.astype(np.float32))))
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_backends_agree_bit_for_bit_with_one_scale_per_row():
    x = mx.array(np.random.default_rng(1).standard_normal((2, 4, 4, 32)).astype(np.float32))
    layer = convolution((3, 1, 1))
    for spec in (Spec(4), Spec(8, False)):
        results = []
        for backend in BACKENDS:
            clock = StepClock()
            quantized = QuantizedConv2d(rounded(layer, spec), layer, grid(32), clock, backend)
            clock.follow(TIMESTEPS)
            results.append(quantized(x))
        assert mx.array_equal(*results)


def test_one_trace_serves_all_steps_in_half_precision_too():
    layer, clock, traces = convolution((3, 1, 1)), StepClock(), []
    quantized = QuantizedConv2d(rounded(layer, Spec(4)), layer, grid(32), clock)
    x = mx.array(np.random.default_rng(4).standard_normal((1, 4, 4, 32)).astype(np.float16))

    def call(x):
        traces.append(1)
        return quantized(x)

    compiled = mx.compile(call, inputs=clock.state)
    found = []
    for run in (TIMESTEPS, TIMESTEPS[:2]):
        clock.follow(run)
        for step in range(len(run)):
            clock.set(step)
            found.append(compiled(x))
            assert mx.allclose(found[-1], quantized(x), atol=2e-3) and found[-1].dtype == mx.float16
    assert len(traces) == 1 and not mx.allclose(found[0], found[2], atol=1e-2)
    assert not quantized.trainable_parameters()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("smoothed", [False, True])
def test_weights_only_equal_the_dequantized_convolution(shape, smoothed):
    smooth = mx.array(np.linspace(0.5, 2, 32).astype(np.float32)) if smoothed else None
    layer = convolution(shape)
    weight = rounded(layer, Spec(4, False, 32), smooth)
    packed = WeightOnlyConv2d(weight, layer)
    x = np.random.default_rng(5).standard_normal((2, 5, 6, 32)).astype(np.float32)
    kernel = np.array(weight.effective(), np.float64).reshape(layer.weight.shape)
    wanted = loops(x.astype(np.float64), kernel, layer.stride, layer.padding) + np.array(layer.bias)
    assert np.abs(np.array(packed(mx.array(x))) - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert packed(mx.array(x).astype(mx.float16)).dtype == mx.float16
    assert not packed.trainable_parameters()


def test_weights_that_cannot_be_packed_are_refused_by_name_and_computed_from_codes():
    layer, clock = convolution((3, 1, 1), channels=4), StepClock()
    weight = rounded(layer, Spec(4))
    with pytest.raises(UserError, match="conv_in: packed storage: got 36 columns"):
        WeightOnlyConv2d(weight, layer, "conv_in")
    quantized = QuantizedConv2d(weight, layer, grid(), clock)
    clock.follow(TIMESTEPS)
    assert quantized(mx.ones((1, 4, 4, 4))).shape == (1, 4, 4, 5)


def test_dilated_convolutions_are_refused():
    layer = nn.Conv2d(32, 5, 3, dilation=2)
    for make in (
        lambda: WeightOnlyConv2d(rounded(layer, Spec(4)), layer),
        lambda: QuantizedConv2d(rounded(layer, Spec(4)), layer, grid(), StepClock()),
    ):
        with pytest.raises(DitqError, match="dilation"):
            make()
