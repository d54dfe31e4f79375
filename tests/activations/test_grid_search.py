"""Grids of least error against brute force on the raw values; which shift is worth it."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import Inputs, find_grid
from ditq.core import affine
from ditq.core.activation_grid import GridRows
from ditq.core.spec import Spec
from tests.activations.invented import statistics_of


def numbers(grid: GridRows) -> tuple[float, np.ndarray]:
    """Step and centre of a grid of one row, the centre of no shift 0."""
    shift = np.zeros(1) if grid.shift is None else np.array(grid.shift[0], np.float64)
    return float(np.array(grid.scale, np.float64)[0]), shift


def raw_error(x: np.ndarray, scale: float, shift, spec: Spec, norms: np.ndarray, norm: float = 2.0) -> float:
    """Plain NumPy: the error of a grid on all values."""
    codes = np.clip(np.round((x - shift) / scale), spec.qmin, spec.qmax)
    return float((np.abs(codes * scale + shift - x) ** norm * norms).sum(axis=1).mean())


def heavy(seed: int, rows: int = 3000, channels: int = 16) -> np.ndarray:
    """Long tails, other sizes in other channels."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(4, (rows, channels)) * rng.uniform(0.3, 2, channels)).astype(np.float32)


def inputs_of(x: np.ndarray, rows: int, shifted: bool = False, norms: np.ndarray | None = None) -> Inputs:
    return Inputs.of(statistics_of(x[None, None], shifted, rows, norms))


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("norm", [2.0, 2.4])
def test_symmetric_step_is_that_of_brute_force_on_the_raw_values(bits, norm):
    x, norms = heavy(bits), np.random.default_rng(1).uniform(0.1, 3, 16)
    found = find_grid(inputs_of(x, 5000, norms=norms), bits, "none", norm=norm)
    full = np.abs(x).max() / Spec(bits).qmax
    fine = [raw_error(x, full * r, 0.0, Spec(bits), norms, norm) for r in np.linspace(0.02, 1, 1500)]
    assert found.shift is None and found.bits == [bits]
    assert raw_error(x, numbers(found)[0], 0.0, Spec(bits), norms, norm) <= 1.01 * min(fine)


@pytest.mark.parametrize("bits", [4, 6])
def test_asymmetric_ends_are_nearly_those_of_brute_force(bits):
    x, spec, norms = np.maximum(heavy(2), -0.17), Spec(bits), np.ones(16)
    found = find_grid(inputs_of(x, 5000), bits, "tensor", norm=2.0)
    best = np.inf
    for low in np.linspace(x.min(), 0.2, 12):
        for high in np.linspace(0.5, x.max(), 120):
            scale = (high - low) / (2**bits - 1)
            best = min(best, raw_error(x, scale, low - spec.qmin * scale, spec, norms))
    assert raw_error(x, *numbers(found), spec, norms) <= 1.03 * best


def test_a_sample_with_the_extremes_finds_nearly_the_step_of_all_values():
    x, norms = heavy(5, rows=20000), np.ones(16)
    found = find_grid(inputs_of(x, 400), 8, "none", norm=2.0)
    full = np.abs(x).max() / 127
    fine = min(raw_error(x, full * r, 0.0, Spec(8), norms) for r in np.linspace(0.02, 1, 300))
    assert raw_error(x, numbers(found)[0], 0.0, Spec(8), norms) <= 1.15 * fine


def test_error_is_that_of_the_output_for_uncorrelated_channels():
    x, rng = heavy(7), np.random.default_rng(8)
    weight = rng.standard_normal((12, 16)).astype(np.float32)
    inputs = inputs_of(x, 5000, norms=np.square(weight.astype(np.float64)).sum(axis=0))
    grid = GridRows.of([8], np.array([0.05]), np.array([[0.01]]))
    y = affine.fake_quant(mx.array(x), mx.array(0.05), mx.array(0.01), Spec(8))
    real = float(np.square((np.array(y) - x) @ weight.T).sum(axis=1).mean())
    assert inputs.error(grid) == pytest.approx(real, rel=0.1)
    assert inputs.error(grid) == pytest.approx(
        raw_error(x, 0.05, 0.01, Spec(8), inputs.importance),
        rel=1e-3,  # rows are stored as float16
    )


def test_maximum_range_holds_every_value():
    x = np.maximum(heavy(3), -0.17)
    for kind in ("none", "tensor", "channels"):
        inputs = inputs_of(x, 64, shifted=True)
        grid = find_grid(inputs, 6, kind, "max")
        scale, shift = numbers(grid)
        low, high = shift + scale * Spec(6).qmin, shift + scale * Spec(6).qmax
        assert (x >= low - 1e-4).all() and (x <= high + 1e-4).all()


def test_channel_shift_wins_where_channels_lie_apart():
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 16)) * 0.2 + np.linspace(-5, 5, 16)).astype(np.float32)
    inputs = inputs_of(x, 600, shifted=True)
    errors = {kind: inputs.error(find_grid(inputs, 4, kind)) for kind in ("none", "tensor", "channels")}
    assert errors["channels"] < 0.05 * errors["tensor"]


@pytest.mark.parametrize("x", [np.zeros((9, 4)), np.full((9, 4), 3.0), np.eye(4)])
def test_degenerate_inputs_have_a_grid(x):
    inputs = inputs_of(x.astype(np.float32), 32, shifted=True)
    for kind in ("none", "tensor", "channels"):
        grid = find_grid(inputs, 4, kind)
        assert 0 < numbers(grid)[0] < np.inf and inputs.error(grid) < 0.02
    silent = inputs_of(x.astype(np.float32), 32, norms=np.zeros(4))
    assert numbers(find_grid(silent, 4, "none"))[0] > 0


def test_smoothing_keeps_the_product_and_the_meaning_of_errors():
    x, rng = heavy(11), np.random.default_rng(12)
    weight, m = rng.standard_normal((12, 16)), 2.0 ** rng.integers(-2, 5, 16)  # powers of two: exact
    assert ((weight * m) @ (x.astype(np.float64) / m).T == weight @ x.astype(np.float64).T).all()
    inputs = inputs_of(x, 5000, norms=np.square(weight).sum(axis=0))
    smoothed = inputs.smoothed(m)
    np.testing.assert_array_equal(smoothed.rows * m, inputs.rows)
    assert smoothed.energy == pytest.approx(inputs.energy)
