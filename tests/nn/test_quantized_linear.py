"""The quantized layer against int64 arithmetic bit for bit, and against float64 fake quantization."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedLinear, StepClock

BACKENDS = ["packed", "codes"]
COLUMNS = 256
WEIGHT_SPECS = [
    Spec(4),
    Spec(8),
    Spec(2),
    Spec(3, False),
    Spec(8, False),
    Spec(8, False, 64),
    Spec(4, True, 64),
    Spec(5, False, 32),
    Spec(6, True, 128),
]


def timesteps(steps) -> np.ndarray:
    return np.linspace(1000, 100, steps, dtype=np.float32)


def start(clock, steps=3, step=0) -> None:
    clock.follow(timesteps(steps))
    clock.set(step)


def grid(steps=3, bits=8, channels=None, seed=0, smooth=None) -> TimestepGrid:
    rng = np.random.default_rng(seed)
    spec = Spec(bits)
    shift = (
        None if channels is None else mx.array(rng.uniform(-0.5, 0.5, (steps, channels)).astype(np.float32))
    )
    scale = mx.array(rng.uniform(0.01, 0.05, steps).astype(np.float32) * 2 ** (8 - bits))
    bounds = (mx.full((steps,), float(bound)) for bound in (spec.qmin, spec.qmax))
    return TimestepGrid(timesteps(steps), GridRows(scale, *bounds, shift), smooth)


def layer(spec, backend, activations, clock, rows=6, columns=COLUMNS, bias=True, seed=0):
    w = mx.array(np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32))
    weight = QuantizedWeight(*affine.round_to_nearest(w, spec), spec)
    b = mx.array(np.linspace(-1, 1, rows).astype(np.float32)) if bias else None
    return QuantizedLinear(weight, b, activations, clock, backend), (weight, b)


def reference(x, parts, activations, step) -> np.ndarray:
    """W x + b in float64 with x on its grid, the long way."""
    weight, bias = parts
    codes, scale, zero = (np.array(part, np.float64) for part in (weight.codes, weight.scale, weight.zero))
    groups, rows = scale.shape[1], activations.rows
    w = ((codes.reshape(len(codes), groups, -1) - zero[..., None]) * scale[..., None]).reshape(codes.shape)
    x = np.array(x, np.float32)
    if activations.smooth is not None:
        x = x / np.array(activations.smooth)
    s = np.array(rows.scale)[step]
    shift = 0 if rows.shift is None else np.array(rows.shift)[step]
    q = np.clip(np.rint((x - shift) / s), np.array(rows.qmin)[step], np.array(rows.qmax)[step])
    y = (q * np.float64(s) + shift) @ w.T
    return y if bias is None else y + np.array(bias, np.float64)


@pytest.mark.parametrize(
    ("backend", "spec", "act_bits", "columns", "zero_point"),
    [
        *((b, Spec(4), 8, 6144, 0) for b in BACKENDS),
        *((b, Spec(8), 8, 1024, 0) for b in BACKENDS),
        *((b, Spec(4), 4, 1536, 0) for b in BACKENDS),
        *((b, Spec(2), 6, 96, 0) for b in BACKENDS),
        *((b, Spec(8, False), 8, 512, z) for b in BACKENDS for z in (0, 1)),
        *(("codes", Spec(7, False), 6, 512, z) for z in (0, 1)),  # MLX has no packed storage of 7 bits
    ],
    ids=str,
)
def test_sums_equal_int64_bit_for_bit(backend, spec, act_bits, columns, zero_point):
    act, point = Spec(act_bits), zero_point * (2**spec.bits - 1)
    rng = np.random.default_rng(columns)
    w = rng.integers(spec.qmin, spec.qmax + 1, (5, columns))
    w[0], w[1] = spec.qmin, spec.qmax
    x = rng.integers(act.qmin, act.qmax + 1, (7, columns))
    x[0], x[1] = act.qmin, act.qmax
    one, zero = mx.ones((5, 1)), mx.full((5, 1), float(point))
    bounds = (mx.array([float(act.qmin)]), mx.array([float(act.qmax)]))
    activations, clock = TimestepGrid(timesteps(1), GridRows(mx.ones(1), *bounds)), StepClock()
    weight = QuantizedWeight(mx.array(w.astype(np.int32)), one, zero, spec)
    quantized = QuantizedLinear(weight, None, activations, clock, backend)
    start(clock, 1)
    wanted = x.astype(np.int64) @ (w.astype(np.int64) - point).T
    assert np.abs(wanted).max() <= 2**24
    assert np.array_equal(np.array(quantized(mx.array(x.astype(np.float32)))).astype(np.int64), wanted)


@pytest.mark.parametrize("spec", [Spec(4), Spec(8), Spec(3, False), Spec(8, False)], ids=str)
@pytest.mark.parametrize("channels", [None, 1, COLUMNS])
def test_backends_agree_bit_for_bit_with_one_scale_per_row(spec, channels):
    x = mx.array(np.random.default_rng(1).standard_normal((2, 5, COLUMNS)).astype(np.float32))
    results = []
    for backend in BACKENDS:
        clock = StepClock()
        quantized, _ = layer(spec, backend, grid(channels=channels), clock)
        start(clock, step=1)
        results.append(quantized(x))
    assert mx.array_equal(*results)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", WEIGHT_SPECS, ids=str)
@pytest.mark.parametrize("channels", [None, 1, COLUMNS])
@pytest.mark.parametrize("smoothed", [False, True])
def test_output_equals_float64_fake_quantization_at_every_step(backend, spec, channels, smoothed):
    smooth = mx.array(np.linspace(0.5, 2, COLUMNS).astype(np.float32)) if smoothed else None
    activations, clock = grid(bits=6, channels=channels, smooth=smooth), StepClock()
    quantized, parts = layer(spec, backend, activations, clock)
    x = mx.array(np.random.default_rng(2).standard_normal((2, 5, COLUMNS)).astype(np.float32) * 2)
    start(clock)
    for step in (2, 0, 1):
        clock.set(step)
        wanted = reference(x, parts, activations, step)
        # an input on the very edge of two codes may fall to either side in float32
        close = np.abs(np.array(quantized(x)) - wanted) < 1e-4 * np.abs(wanted).max()
        assert close.all(axis=-1).mean() >= 0.9 and close.mean() >= 0.9


def test_layers_share_one_clock_and_the_step_never_retraces():
    clock = StepClock()
    first, parts = layer(Spec(4), "codes", grid(seed=1, channels=1), clock)
    second, _ = layer(Spec(4), "codes", grid(seed=2), clock, seed=1)
    x = mx.array(np.random.default_rng(3).standard_normal((4, COLUMNS)).astype(np.float32))
    start(clock)
    first(x)
    traces = []

    def both(x):
        traces.append(1)
        return first(x), second(x)

    compiled = mx.compile(both, inputs=clock.state)
    for step in (0, 1, 2, 0):
        clock.set(step)
        got, eager = compiled(x), both(x)
        traces.pop()
        assert all(mx.allclose(one, other, atol=1e-5) for one, other in zip(got, eager, strict=True))
        assert np.allclose(np.array(got[0]), reference(x, parts, grid(seed=1, channels=1), step), atol=2e-3)
    assert len(traces) == 1


def test_half_precision_in_and_out():
    clock = StepClock()
    quantized, parts = layer(Spec(4), "codes", grid(), clock)
    start(clock)
    x = mx.array(np.random.default_rng(4).standard_normal((3, COLUMNS)).astype(np.float16))
    got = quantized(x)
    assert got.dtype == mx.float16
    wanted = reference(np.array(x).astype(np.float32), parts, grid(), 0)
    assert np.abs(np.array(got) - wanted).max() < 0.02 * np.abs(wanted).max()


def test_nothing_is_trainable_and_clocks_stay_out_of_the_parameters():
    quantized, _ = layer(Spec(4), "packed", grid(), StepClock())
    assert not quantized.trainable_parameters()
    assert {"weight", "scales", "biases", "multiplier", "bias"} == set(quantized.parameters())


def test_a_grid_that_is_a_function_gives_each_run_its_own_rows():
    """Its rows at a run's timesteps must count as if they had been calibrated there."""

    class Growing:
        smooth = None

        def at(self, timesteps):
            scale = mx.array(0.01 + np.asarray(timesteps, np.float32) * 1e-5)
            bounds = (mx.full(scale.shape, float(bound)) for bound in (-128, 127))
            return GridRows(scale, *bounds, mx.broadcast_to(scale[:, None] * 7, (len(scale), COLUMNS)))

    run = np.array([950.0, 401.5, 33.0], np.float32)
    x = mx.array(np.random.default_rng(5).standard_normal((4, COLUMNS)).astype(np.float32))
    results = []
    for activations in (Growing(), TimestepGrid(run, Growing().at(run))):
        clock = StepClock()
        quantized, _ = layer(Spec(4), "codes", activations, clock)
        clock.follow(run)
        for step in range(3):
            clock.set(step)
            results.append(quantized(x))
    for one, other in zip(results[:3], results[3:], strict=True):
        assert mx.array_equal(one, other)
    assert not mx.allclose(results[0], results[1], atol=1e-3)
