"""The solver's codes are those of the papers' loops, on every grid, in either order."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine
from ditq.core.spec import Spec
from ditq.weights.columns.factor import Factor, cholesky, greatest_eigenvalue, solve_lower
from ditq.weights.columns.solver import Grid, round_columns, treatment_order
from tests.weights import oracles

SPECS = [
    Spec(4),
    Spec(2),
    Spec(8),
    Spec(3, symmetric=False),
    Spec(4, group_size=32),
    Spec(4, symmetric=False, group_size=64),
    Spec(5, symmetric=False, group_size=32),
    Spec(6, group_size=128),
]


def data(out=6, columns=128, rows=300, seed=0):
    """A weight, inputs whose channels are correlated and of different sizes, and what quantization made of them."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((columns, columns)) / np.sqrt(columns) + np.eye(columns)
    X = rng.standard_normal((rows, columns)) @ mix * np.exp(rng.standard_normal(columns))
    Xq = X + 0.2 * rng.standard_normal(X.shape) * np.abs(X).mean()
    return rng.standard_normal((out, columns)), X, Xq


def grid_of(W, spec):
    scale, zero = affine.minmax_range(mx.array(W.astype(np.float32)), spec)
    return np.array(scale).astype(np.float64), np.array(zero).astype(np.float64)


def solved(W, H, lam, scale, zero, spec, act_order, correction=None):
    """The codes by the solver, in the dtype of W."""
    order = treatment_order(np.diagonal(H), act_order)
    H = H[np.ix_(order, order)].copy()
    dead = np.diag(H) == 0
    H[dead, dead] = 1
    H += lam * np.eye(len(H), dtype=H.dtype)
    last = H[-1, -1]
    factor, mismatch, first, W = cholesky(H), None, None, W.T[order]
    assert factor is not None
    if correction is not None:
        correction = correction[order]
        mismatch = solve_lower(factor, correction)
        first = W[-1] + correction[-1] / last
    grid = Grid.of(scale.astype(W.dtype), zero.astype(W.dtype), len(H), spec).take(order)
    codes = np.empty_like(W)
    codes[order], lost = round_columns(W, factor, grid, mismatch, first)
    values = (codes[order] - grid.zero[grid.group]) * grid.scale[grid.group]
    assert np.allclose(W - lost, values, atol=1e-5)
    return codes.T


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gptq_as_published(spec, act_order):
    W, X, _ = data()
    X[:, 5] = 0
    H = X.T @ X
    scale, zero = grid_of(W, spec)
    lam, group = 0.01 * np.diag(H).mean(), np.arange(128) // (128 // scale.shape[1])
    order = treatment_order(np.diag(H), act_order)[::-1]
    expected = oracles.gptq(W, H, lam, scale, zero, group, spec.qmin, spec.qmax, order)
    assert np.array_equal(solved(W, H, lam, scale, zero, spec, act_order), expected)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("spec", SPECS[:6], ids=str)
def test_qronos_as_published(spec, act_order):
    W, X, Xq = data(out=2, columns=64, rows=100)
    H, columns = Xq.T @ Xq, X.shape[1]
    scale, zero = grid_of(W, spec)
    lam, group = 1e-3 * np.linalg.eigvalsh(H)[-1], np.arange(columns) // (columns // scale.shape[1])
    order = treatment_order(np.diag(H), act_order)[::-1]
    expected = oracles.qronos(W, X, Xq, lam, scale, zero, group, spec.qmin, spec.qmax, order)
    found = solved(W, H, lam, scale, zero, spec, act_order, Xq.T @ (X - Xq) @ W.T)
    assert np.array_equal(found, expected)


def test_float32_finds_the_codes_of_float64():
    spec = Spec(4, group_size=32)
    W, X, Xq = data(out=64, columns=256, rows=800)
    H, correction = Xq.T @ Xq, Xq.T @ (X - Xq) @ W.T
    scale, zero = grid_of(W, spec)
    lam = 0.01 * np.diag(H).mean()
    exact = solved(W, H, lam, scale, zero, spec, True, correction)
    single = solved(
        *(a.astype("f") for a in (W, H)), np.float32(lam), scale, zero, spec, True, correction.astype("f")
    )
    assert single.dtype == np.float32
    assert (single != exact).mean() < 2e-3


@pytest.mark.parametrize("symmetric", [True, False])
def test_independent_inputs_are_rounded_to_nearest(symmetric):
    spec = Spec(3, symmetric)
    W, X, _ = data()
    H = np.diag(np.square(X).sum(axis=0))
    scale, zero = grid_of(W, spec)
    expected = affine.nearest(*map(mx.array, (W, scale, zero)), spec)
    assert np.array_equal(solved(W, H, 0.0, scale, zero, spec, True), expected)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_most_rows_get_the_best_of_all_roundings(seed):
    """All 8^5 roundings of each row are tried: none is better than the best, and the solver finds it on most rows, as
    plain rounding does on few."""
    spec, rows = Spec(3), 40
    W, X, _ = data(out=rows, columns=5, rows=50, seed=seed)
    H = X.T @ X
    scale, zero = grid_of(W, spec)
    grid = np.array(list(itertools.product(range(spec.qmin, spec.qmax + 1), repeat=5)))
    found = solved(W, H, 0.0, scale, zero, spec, True)
    plain = np.clip(np.round(W / scale), spec.qmin, spec.qmax)
    root = np.linalg.cholesky(H)

    def losses(codes, row):
        return np.square((W[row] - scale[row] * codes) @ root).sum(axis=-1)

    best, ours, rounded = (
        np.array([losses(codes, row).min() for row, codes in enumerate(every)])
        for every in ([grid] * rows, found[:, None], plain[:, None])
    )
    assert (ours >= best * (1 - 1e-9)).all()
    assert (ours <= best * (1 + 1e-9)).mean() > 0.55 and (rounded <= best * (1 + 1e-9)).mean() < 0.4
    assert ours.sum() < 1.4 * best.sum() < 0.9 * rounded.sum()


@pytest.mark.parametrize("act_order", [False, True])
def test_error_stays_below_the_bound_of_nearest_planes(act_order):
    """Where no code meets the grid's end, entry j of (w - q) L is at most half a step times L_jj (Babai 1986)."""
    W, X, _ = data(out=200, columns=24, rows=100)
    H, spec = X.T @ X, Spec(8)
    scale = np.full((200, 1), 0.3)
    found = solved(W, H, 0.0, scale, np.zeros((200, 1)), spec, act_order)
    assert found.min() > spec.qmin and found.max() < spec.qmax
    order = treatment_order(np.diag(H), act_order)
    diagonal = np.diag(np.linalg.cholesky(H[np.ix_(order, order)]))
    root, bound = np.linalg.cholesky(H), np.square(0.5 * 0.3 * diagonal).sum()
    assert (np.square((W - 0.3 * found) @ root).sum(axis=1) <= bound * (1 + 1e-9)).all()
    assert (np.square((W - 0.3 * np.round(W / 0.3)) @ root).sum(axis=1) > bound).mean() > 0.05


def test_two_columns_by_hand():
    """H = [[1, c], [c, 1]]: the second column takes over c times the error of the first."""
    factor = cholesky(np.array([[1, 0.8], [0.8, 1]])[::-1, ::-1].copy())
    assert factor is not None
    grid = Grid.of(np.ones((1, 1)), np.zeros((1, 1)), 2, Spec(4))
    weight = np.array([[1.4], [0.3]])  # reverse order of treatment: 0.3 first
    codes, lost = round_columns(weight, factor, grid)
    assert codes.ravel().tolist() == [2, 0]  # 1.4 + 0.8 * 0.3 = 1.64
    assert lost.ravel() == pytest.approx([-0.6, 0.3])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layout_and_dtype_do_not_matter(order, dtype):
    """Products are added in place: an array that BLAS had to copy would take nothing in."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((500, 128))
    factor = cholesky(X.T @ X)
    assert factor is not None
    weight, mismatch = rng.standard_normal((2, 128, 16))
    grid = Grid.of(np.full((16, 1), 0.3), np.zeros((16, 1)), 128, Spec(4))
    expected, lost = round_columns(weight, factor, grid, mismatch.copy())
    given = np.asarray(weight, order=order), np.asarray(mismatch.astype(dtype), order=order)
    found = round_columns(given[0], factor, grid, given[1].copy(order=order))
    assert np.array_equal(found[0], expected) and np.allclose(found[1], lost, atol=1e-4)
    assert not np.array_equal(expected, round_columns(weight, factor, grid)[0])


def test_factor_is_checked():
    singular = np.ones((4, 4), np.float32)
    assert cholesky(-np.eye(3, dtype=np.float32)) is None
    assert cholesky(singular) is None
    assert cholesky(np.full((3, 3), np.nan)) is None
    factor = cholesky(np.diag([1.0, 100.0]))
    assert factor is not None and factor.condition == pytest.approx(100)


def test_triangles_and_eigenvalue():
    rng = np.random.default_rng(1)
    lower = np.tril(rng.standard_normal((200, 200))) + 20 * np.eye(200)
    right = rng.standard_normal((200, 3))
    assert np.allclose(lower @ solve_lower(Factor(lower), right), right)
    matrix = lower @ lower.T
    assert greatest_eigenvalue(matrix, 200) == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=1e-3)
    assert greatest_eigenvalue(np.zeros((3, 3))) == 0
