"""Second moments are NumPy's sums over the rows that are not held out, in whatever batches these come."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.weights.columns.gptq import GPTQ
from ditq.weights.columns.held_out import EVERY, MOST
from ditq.weights.columns.hessian import CHUNK, LONG, Moments
from ditq.weights.columns.layer import solve_layer
from tests.weights.columns.test_solver import data


def float32(*arrays):
    return [a.astype(np.float32) for a in arrays]


def streams(rows, columns=24, seed=0):
    """Inputs of a float and of a quantized model."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    return x, x + 0.1 * rng.standard_normal(x.shape, dtype=np.float32)


def test_batches_and_layouts_do_not_matter():
    W, X, Xq = float32(*data(rows=240))
    spec = Spec(4)
    once, whole = Moments(128), Moments(128, weights={"a": W})
    for start in range(0, 240, 60):
        once.add(
            X[start : start + 60].reshape(6, 10, 128), mx.array(Xq[start : start + 60]).reshape(6, 10, 128)
        )
    whole.add(X, Xq)
    assert np.allclose(once.finish().hessian.whole(), whole.finish().hessian.whole(), rtol=1e-5)
    assert np.allclose(once.held_out()[1], whole.held_out()[1])
    kept = np.arange(240) % EVERY != EVERY - 1
    assert np.allclose(whole.hessian.whole(), Xq[kept].T @ Xq[kept], rtol=1e-4, atol=1e-2)
    expected = Xq[kept].T @ (X - Xq)[kept] @ W.T
    for moments, key in ((once, ""), (whole, "a")):
        found = moments.correction(W, key)
        assert found is not None and np.allclose(found, expected, rtol=1e-3, atol=1e-2)
    codes = [solve_layer(W, m, spec, GPTQ(), key=k)[0].codes for m, k in ((once, ""), (whole, "a"))]
    assert np.array_equal(*map(np.array, codes))


def test_held_out_rows_are_thinned_into_the_rest():
    moments = Moments(2)
    for _ in range(30):
        moments.add(np.ones((1000, 2), np.float32))
    held, _ = moments.finish().held_out()
    assert MOST // 4 < len(held) <= MOST
    assert moments.rows + len(held) == 30000 == moments.hessian.whole()[0, 1] + len(held)


def test_rows_are_held_out_alike_in_one_batch_and_in_many():
    X = np.random.default_rng(0).standard_normal((5000, 3), dtype=np.float32)
    once, often = Moments(3), Moments(3)
    once.add(X)
    for part in np.split(X, [7, 1000, 1001, 3500]):
        often.add(part)
    assert np.array_equal(once.finish().held_out()[0], often.finish().held_out()[0])
    stride = EVERY
    while len(X) // stride > MOST:
        stride *= 2
    held = np.arange(len(X)) % stride == stride - 1
    assert np.array_equal(once.held_out()[0], X[held]) and once.rows == often.rows == (~held).sum()
    for moments in (once, often):
        assert np.allclose(moments.hessian.whole(), X[~held].T @ X[~held], rtol=1e-4, atol=1e-2)


def test_rows_after_the_end_are_no_silent_loss():
    moments = Moments(2)
    moments.add(np.ones((40, 2), np.float32))
    moments.finish()
    with pytest.raises(AttributeError):
        moments.add(np.ones((40, 2), np.float32))


@pytest.mark.parametrize("out", [4, 24], ids=["projected", "whole"])
@pytest.mark.parametrize(
    "sizes",
    [[2 * CHUNK + LONG + 1], [LONG - 1] * 5, [3, CHUNK, LONG, 1, 7 * LONG]],
    ids=["long", "short", "both"],
)
def test_sums_of_both_streams(sizes, out):
    """Every second batch comes from one stream alone: its rows have changed nothing."""
    x, xq = streams(sum(sizes))
    W = np.random.default_rng(1).standard_normal((out, 24), dtype=np.float32)
    moments, seen, start = Moments(24, weights={"a": W}), [], 0
    for number, size in enumerate(sizes):
        part = slice(start, start + size)
        moments.add(x[part], xq[part] if number % 2 == 0 else None, held_out=False)
        seen.append(xq[part] if number % 2 == 0 else x[part])
        start += size
    quantized = np.concatenate(seen)
    moments.add(*streams(9, seed=2), held_out=True)
    hessian = moments.finish().hessian.whole()
    np.testing.assert_allclose(hessian, quantized.T.astype(np.float64) @ quantized, rtol=1e-4, atol=1e-2)
    expected = quantized.T.astype(np.float64) @ (x - quantized) @ W.T
    np.testing.assert_allclose(moments.correction(W, "a"), expected, rtol=1e-3, atol=1e-2)
    assert moments.rows == sum(sizes)


def test_a_batch_may_be_written_over_once_it_was_added():
    x, xq = streams(60)
    moments = Moments(24)
    batch, quantized = np.empty((20, 24), np.float32), np.empty((20, 24), np.float32)
    for part in (slice(0, 20), slice(20, 40), slice(40, 60)):
        batch[:], quantized[:] = x[part], xq[part]
        moments.add(batch, quantized)
    kept = np.arange(60) % EVERY != EVERY - 1
    hessian = moments.finish().hessian.whole()
    np.testing.assert_allclose(hessian, xq[kept].T @ xq[kept], rtol=1e-4, atol=1e-3)
    found = moments.correction(np.eye(24, dtype=np.float32))
    np.testing.assert_allclose(found, xq[kept].T @ (x - xq)[kept], rtol=1e-3, atol=1e-3)
    held_x, held_xq = moments.held_out()
    assert np.array_equal(held_x, x[~kept]) and np.array_equal(held_xq, xq[~kept])


@pytest.mark.parametrize("row", [0, 16, 700], ids=["summed", "held out", "in a long batch"])
def test_values_that_are_used_must_be_finite(row):
    x, xq = streams(1000)
    xq[row, 3] = np.inf
    for cross in (False, True):
        with pytest.raises(UserError, match="fc2: calibration quantized inputs: got 1 of 1000 rows"):
            Moments(24, "fc2", cross=cross).add(x, xq)
        with pytest.raises(UserError, match="fc2: calibration inputs: got 1 of 1000 rows"):
            Moments(24, "fc2", cross=cross).add(xq)
    with pytest.raises(UserError, match="fc2: calibration inputs: got 1 of 1000 rows"):
        Moments(24, "fc2").add(xq, x)


@pytest.mark.parametrize("batches", [195, 300], ids=["in the last rows", "on the way"])
def test_a_sum_that_overflows_bit_by_bit_is_told(batches):
    moments, batch = Moments(24, "fc2"), np.full((20, 24), 3e17, np.float32)
    with pytest.raises(UserError, match="fc2: calibration inputs: got values whose squares overflow float32"):
        for _ in range(batches):
            moments.add(batch)
        moments.finish()
