"""The grids against slow NumPy loops, brute force over ranges, and finite differences."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.spec import Spec

SPECS = [
    Spec(bits, symmetric, group)
    for bits in (2, 3, 4, 5, 6, 7, 8)
    for symmetric in (True, False)
    for group in (None, 32, 64)
]


def weights(rows=3, columns=128, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((rows, columns)) * rng.uniform(0.5, 2, (rows, 1)) + 0.3).astype(np.float32)


def loop(w: np.ndarray, spec: Spec) -> tuple[np.ndarray, np.ndarray]:
    """Min-max codes and values, element by element in float64, with scales of float16."""
    codes, values = np.zeros(w.shape, int), np.zeros(w.shape)
    size = spec.group_size or w.shape[1]
    for row in range(w.shape[0]):
        for start in range(0, w.shape[1], size):
            group = w[row, start : start + size].astype(np.float64)
            low, high = min(group.min(), 0), max(group.max(), 0)
            if spec.symmetric:
                scale, zero = float(np.float16(max(low / spec.qmin, high / spec.qmax))), 0
            else:
                scale = float(np.float16((high - low) / spec.qmax))
                zero = np.rint(-low / scale)
            for i, value in enumerate(group):
                code = min(max(np.rint(value / scale) + zero, spec.qmin), spec.qmax)
                codes[row, start + i], values[row, start + i] = code, (code - zero) * scale
    return codes, values


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_codes_and_values_equal_a_loop(spec):
    w = weights()
    codes, scale, zero = affine.round_to_nearest(mx.array(w), spec)
    wanted, values = loop(w, spec)
    # float32 and float64 may round a value on the very edge of two codes differently
    assert np.abs(np.array(codes) - wanted).max() <= 1 and (np.array(codes) != wanted).mean() < 0.005
    assert np.allclose(
        np.array(affine.dequantize(codes, scale, zero))[codes == wanted], values[codes == wanted], atol=1e-5
    )
    assert codes.dtype == affine.code_dtype(spec) and scale.shape == (3, spec.groups(128))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_errors_stay_within_half_a_step(spec):
    w = mx.array(weights(seed=1))
    codes, scale, zero = affine.round_to_nearest(w, spec)
    error = np.abs(np.array(affine.dequantize(codes, scale, zero) - w)).reshape(*scale.shape, -1)
    # a rounded zero point moves an asymmetric range by up to half a step, and a rounded scale its ends by a 2048th
    steps = 0.5 if spec.symmetric else 1.0 + 2**spec.bits / 2048
    assert (error <= np.array(scale)[..., None] * steps * 1.0001).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_zero_is_exact(spec):
    w = weights()
    w[:, ::5] = 0
    codes, scale, zero = affine.round_to_nearest(mx.array(w), spec, search=True)
    assert (np.array(affine.dequantize(codes, scale, zero))[:, ::5] == 0).all()


@pytest.mark.parametrize("spec", [Spec(4), Spec(3, False, 32), Spec(2, True, 64), Spec(8)], ids=str)
def test_searched_range_is_the_best_of_its_candidates(spec):
    w = weights(seed=2)
    w[0, 0] = 9.0  # an outlier that a min-max range would be wasted on

    def error(scale, zero):
        values = affine.dequantize(affine.quantize(mx.array(w), scale, zero, spec), scale, zero)
        return np.square(np.array(values) - w).reshape(*scale.shape, -1).sum(-1)

    best = error(*affine.mse_range(mx.array(w), spec, candidates=9, least=0.2))
    low, high = affine._extremes(mx.array(w), spec)
    tried = [
        error(*affine.weight_grid(low * float(f), high * float(f), spec)) for f in np.linspace(1, 0.2, 9)
    ]
    assert np.allclose(best, np.min(tried, axis=0), rtol=1e-5)
    assert (best <= tried[0] * (1 + 1e-6)).all()


@pytest.mark.parametrize("library", [np.array, mx.array], ids=["NumPy", "MLX"])
def test_scales_are_those_of_float16_where_it_is_precise(library):
    steps = np.geomspace(1e-9, 1e9, 300).astype(np.float32)
    found = np.array(affine.storable(library(steps)))
    half = np.clip(steps, 1e-8, 6e4).astype(np.float16).astype(np.float32)
    precise = (steps >= 2.0**-16) & (steps <= 2.0**15)
    assert found.dtype == np.float32 and 100 < precise.sum() < 200
    assert np.array_equal(found, np.where(precise, half, steps))
    assert np.abs(found / steps - 1).max() < 1 / 500


def test_rows_of_zeros_stay_zero():
    for spec in SPECS:
        codes, scale, zero = affine.round_to_nearest(mx.zeros((2, 128)), spec, search=True)
        assert mx.isfinite(scale).all() and (affine.dequantize(codes, scale, zero) == 0).all()


def test_fake_quant_equals_numpy_and_keeps_the_dtype():
    x = np.random.default_rng(0).standard_normal((2, 5, 8)).astype(np.float32) * 3
    shift = np.linspace(-1, 1, 8).astype(np.float32)
    spec = Spec(6)
    wanted = np.clip(np.rint((x - shift) / np.float32(0.11)), -32, 31) * np.float32(0.11) + shift
    got = affine.fake_quant(mx.array(x), mx.array(0.11), mx.array(shift), spec)
    assert np.allclose(np.array(got), wanted, atol=1e-6)
    half = affine.fake_quant(mx.array(x).astype(mx.float16), mx.array(0.11), mx.array(shift), spec)
    assert half.dtype == mx.float16


def test_gradients_pass_straight_through_and_stop_at_the_bounds():
    spec = Spec(4)
    x = mx.array([0.26, -0.49, 5.0, -7.0])
    scale = mx.array(0.5)
    grad_x, grad_scale = mx.grad(lambda x, s: affine.fake_quant(x, s, mx.array(0.0), spec).sum(), (0, 1))(
        x, scale
    )
    assert grad_x.tolist() == [1, 1, 0, 0]
    # LSQ, equation 3: round(x/s) - x/s inside, qmin or qmax outside
    inside = [np.rint(v / 0.5) - v / 0.5 for v in (0.26, -0.49)]
    assert grad_scale.item() == pytest.approx(sum(inside) + spec.qmax + spec.qmin, abs=1e-5)


def test_gradient_of_the_shift():
    x = mx.array([0.2, 5.0])
    grad = mx.grad(lambda b: affine.fake_quant(x, mx.array(0.5), b, Spec(4)).sum())(mx.array([0.0, 0.0]))
    assert grad.tolist() == [
        0,
        1,
    ]  # inside, the rounding cancels it; outside, the clipped value moves with it


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spec(9), "bits: got 9; expected from 2 to 8"),
        (lambda: Spec(4, group_size=100), "group size: got 100"),
        (
            lambda: Spec(4, group_size=128).groups(192, "blocks.3.mlp.fc2"),
            "blocks.3.mlp.fc2: in_features 192 is not divisible: got group size 128; use 32 or 64",
        ),
        (lambda: Spec(4, group_size=64).groups(50), "quantize it per channel"),
    ],
)
def test_impossible_grids_are_explained(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)
