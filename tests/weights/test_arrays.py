"""The plain-array solver: better than rounding on rows it never saw, and unharmed by hostile calibration."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.weights import Solution, solve
from ditq.weights.columns.factor import cholesky, greatest_eigenvalue
from ditq.weights.columns.gptq import GPTQ, LADDER
from ditq.weights.columns.held_out import EVERY
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.outputs import Layer, Outputs
from ditq.weights.columns.solver import Grid, round_columns, treatment_order
from tests.weights import oracles
from tests.weights.columns.test_solver import data


def float32(*arrays):
    return [a.astype(np.float32) for a in arrays]


def error(solution, W, X, Xq):
    return np.linalg.norm(X @ W.T - Xq @ solution.values().T) / np.linalg.norm(X @ W.T)


def rounding(W, spec, search=True):
    return Solution(*(np.array(a) for a in affine.round_to_nearest(mx.array(W), spec, search)))


@pytest.mark.parametrize("method", ["gptq", "qronos"])
@pytest.mark.parametrize("symmetric, group_size", [(True, None), (False, None), (True, 64), (False, 32)])
def test_unseen_rows_are_served_better_than_by_rounding(method, symmetric, group_size):
    W, X, Xq = float32(*data(out=48, columns=128, rows=3000))
    solution, report = solve(W, X[:2000], Xq[:2000], 4, group_size, method, symmetric)
    unseen = error(solution, W, X[2000:], Xq[2000:])
    assert unseen < error(rounding(W, Spec(4, symmetric, group_size)), W, X[2000:], Xq[2000:])
    assert report.error < report.error_rounding and not report.fallback
    assert unseen == pytest.approx(report.error, rel=0.1)
    assert report.rows + report.judged_rows == 2000 and len(report.ladder) >= 2
    assert solution.codes.flags.c_contiguous and solution.codes.dtype == (np.int8 if symmetric else np.uint8)


def test_damping_that_every_second_column_likes_suits_all():
    W, X, Xq = float32(*data(out=24, columns=1536, rows=3100))
    seen, unseen = (X[:2600], Xq[:2600]), (X[2600:], Xq[2600:])
    chosen, report = solve(W, *seen, method="gptq")
    errors = [error(solve(W, *seen, method="gptq", damping=rung)[0], W, *unseen) for rung in LADDER]
    assert len(report.ladder) >= 2 and any(report.damping == pytest.approx(rung) for rung in LADDER)
    assert error(chosen, W, *unseen) < 1.02 * min(errors)
    assert max(errors) > 1.05 * min(errors)  # it matters


def test_thinned_outputs_are_those_of_a_layer_of_every_second_column():
    W, X, Xq = float32(*data(out=24, columns=128, rows=600))
    moments = Moments(128, cross=False)
    moments.add(X, Xq)
    layer = Layer(W, moments.finish(), Spec(4), GPTQ(), "")
    columns = layer.order[::2]
    factor = cholesky(np.asarray(moments.hessian.whole()[np.ix_(columns, columns)], order="C"), 1.0)
    assert factor is not None
    grid = Grid.of(layer.scale, layer.zero, 64, Spec(4))
    codes, _ = round_columns(W.T[columns], factor, grid)
    x, xq = moments.held_out()
    target = x[:, columns] @ W[:, columns].T
    expected = np.linalg.norm(target - xq[:, columns] @ (codes * layer.scale.T)) / np.linalg.norm(target)
    assert Outputs(layer, slice(None), 2).error(factor) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["gptq", "qronos"])
@pytest.mark.parametrize("out", [48, 96])  # with and without the projected sum of both streams
def test_outputs_in_parts_are_those_of_the_whole(monkeypatch, method, out):
    W, X, Xq = float32(*data(out=out, columns=128, rows=600))
    whole, told = solve(W, X, Xq, 4, 32, method, symmetric=False)
    monkeypatch.setattr("ditq.weights.columns.outputs.OUTPUTS", 20)
    parts, again = solve(W, X, Xq, 4, 32, method, symmetric=False)
    assert np.array_equal(whole.scales, parts.scales) and np.array_equal(whole.zeros, parts.zeros)
    assert (whole.codes != parts.codes).mean() < 1e-3
    assert again.error == pytest.approx(told.error, rel=1e-3)
    assert again.error_rounding == pytest.approx(told.error_rounding, rel=1e-4)


def test_the_range_holds_large_weights_of_small_inputs():
    W, X, _ = float32(*data(out=24, columns=768, rows=3100))
    W[:, ::64] *= 20
    X[:, ::64] *= 0.3
    errors = [
        error(solve(W, X[:2600], bits=8, method="gptq", search=search)[0], W, X[2600:], X[2600:])
        for search in (True, False)
    ]
    assert errors[0] < 1.02 * errors[1]


@pytest.mark.parametrize("bits, gain", [(2, 0.7), (3, 0.85), (4, 0.95)])
def test_a_searched_range_beats_the_least_that_holds_all(bits, gain):
    W, X, Xq = float32(*data(out=48, columns=768, rows=3100))
    errors = [
        error(solve(W, X[:2600], Xq[:2600], bits, method="gptq", search=search)[0], W, X[2600:], Xq[2600:])
        for search in (True, False)
    ]
    assert errors[0] < gain * errors[1], errors


def test_qronos_mends_what_gptq_cannot_see():
    W, X, Xq = float32(*data(out=48, columns=128, rows=3000))
    errors = {
        method: error(solve(W, X[:2000], Xq[:2000], 8, method=method)[0], W, X[2000:], Xq[2000:])
        for method in ("gptq", "qronos")
    }
    assert errors["qronos"] < 0.9 * errors["gptq"]


def test_mlx_arrays_get_a_quantized_weight():
    W, X, _ = float32(*data())
    quantized, report = solve(mx.array(W), mx.array(X), group_size=32, bits=3)
    plain, _ = solve(W, X, group_size=32, bits=3)
    assert isinstance(quantized, QuantizedWeight) and isinstance(plain, Solution)
    quantized.check("layer")
    assert np.array_equal(np.array(quantized.codes), plain.codes)
    assert np.allclose(np.array(quantized.values()), plain.values())
    half, _ = solve(mx.array(W).astype(mx.bfloat16), mx.array(X).astype(mx.bfloat16))
    assert report.error > 0 and isinstance(half, QuantizedWeight)


def by_the_book(method, W, X, Xq, report, plain, order):
    """The paper's loop in float64 with the damping of the report and the scales of `plain`, on the rows that are not
    held out; and which rows are."""
    rows, columns = X.shape
    held = np.arange(rows) % EVERY == EVERY - 1 if rows >= EVERY else np.ones(rows, bool)
    seen = np.ones(rows, bool) if rows < EVERY else ~held
    X, Xq = (np.asarray(a[seen], np.float64) for a in (X, Xq))
    diagonal = np.square(Xq).sum(axis=0)
    H = Xq.T @ Xq + np.diag(np.where(diagonal == 0, diagonal.mean(), 0))
    unit = np.diag(H).mean() if method == "gptq" else greatest_eigenvalue(H)
    lam, group = report.damping * unit, np.arange(columns) // (columns // plain.scales.shape[1])
    scale, zero = plain.scales.astype(np.float64), plain.zeros.astype(np.float64)
    ends = plain.codes.min(initial=-8), plain.codes.max(initial=7)
    if method == "gptq":
        return oracles.gptq(W.astype(np.float64), H, lam, scale, zero, group, *ends, order), held
    return oracles.qronos(W.astype(np.float64), X, Xq, lam, scale, zero, group, *ends, order), held


@pytest.fixture(params=["gptq", "qronos"])
def hostile(request):
    """Solves, and checks the result against the papers' loops and its report against NumPy.

    Where the loop's codes are better on the held-out rows than plain rounding on the same scales, the solver must
    return codes as good; where they are not, it must return plain rounding and note it.
    """

    def run(W, X, Xq=None, **settings):
        solution, report = solve(W, X, Xq, method=request.param, name="fc2", **settings)
        assert np.isfinite(solution.values()).all()
        Xq = X if Xq is None else Xq
        codes = np.clip(np.round(W / solution.scales), -8, 7)
        plain = replace(solution, codes=codes.astype(np.int8))
        moved = [note for note in report.fallback if note.startswith("kept") and "did not beat" not in note]
        order = treatment_order(np.square(Xq.astype(np.float64)).sum(axis=0), True)[::-1]
        if moved:
            assert np.array_equal(solution.codes, plain.codes)
            return solution, report
        book, held = by_the_book(request.param, W, X, Xq, report, plain, order)
        target = np.linalg.norm(X[held] @ W.T)
        errors = [
            np.linalg.norm(X[held] @ W.T - Xq[held] @ (c * solution.scales).T) / target
            for c in (solution.codes, plain.codes, book)
        ]
        assert report.error == pytest.approx(errors[0], rel=1e-3)
        assert report.error_rounding == pytest.approx(errors[1], rel=1e-3)
        if any("did not beat" in note for note in report.fallback):
            assert np.array_equal(solution.codes, plain.codes) and errors[2] > 0.98 * errors[1]
        else:
            assert errors[0] < 1.02 * errors[2] and errors[0] <= errors[1]
        return solution, report

    return run


def test_zero_inputs(hostile):
    W, X, _ = float32(*data(2, 64))
    solution, report = hostile(W, np.zeros_like(X))
    assert np.abs(solution.values() - W).max() < np.abs(rounding(W, Spec(4)).values() - W).max() * 1.5
    assert report.fallback == ["kept round-to-nearest: all inputs are zero"] and report.dead_columns == 64


def test_nan_row(hostile):
    W, X, Xq = float32(*data(2, 64))
    X[7] = np.nan
    with pytest.raises(UserError, match=r"fc2: calibration inputs: got 1 of 300 rows with NaN"):
        hostile(W, X)
    with pytest.raises(UserError, match="fc2: calibration quantized inputs"):
        hostile(W, Xq, X)


def test_float16_overflow(hostile):
    W, X, _ = float32(*data(2, 64))
    X[3] *= 1e5
    with np.errstate(over="ignore"):
        half = X.astype(np.float16)
    with pytest.raises(
        UserError, match="fc2: calibration inputs: got 1 of 300 rows.*infinity.*float32 or bfloat16"
    ):
        hostile(W, half)


def test_overflowing_squares():
    _, X, _ = float32(*data(2, 64))
    with pytest.raises(UserError, match="fc2: .*overflow float32"):
        Moments(64, "fc2").add(X * np.float32(1e25))


def test_large_channel(hostile):
    W, X, Xq = float32(*data(2, 64))
    X[:, 9] *= 1e4
    Xq[:, 9] *= 1e4
    hostile(W, X, Xq)
    hostile(W, X, Xq, damping=0.0)


def test_singular_hessian(hostile):
    W, X, _ = float32(*data(2, 64))
    X[:, 32:] = X[:, :32]
    _, report = hostile(W, X, damping=0.0)
    assert report.fallback and report.damping > 0
    _, report = hostile(W, X)
    assert report.error < report.error_rounding


def test_misuse_is_told():
    W, X, _ = float32(*data())
    with pytest.raises(UserError, match="fc2: inputs: got 100 channels; expected 128"):
        solve(W, X[:, :100], name="fc2")
    with pytest.raises(UserError, match="fc2: quantized inputs: got 10 rows"):
        solve(W, X, X[:10], name="fc2")
    with pytest.raises(UserError, match="fc2: calibration: got no rows"):
        solve(W, X[:0], name="fc2")
    with pytest.raises(UserError, match="fc2: weight"):
        solve(W * np.nan, X, name="fc2")
    with pytest.raises(UserError, match="method"):
        solve(W, X, method="magic")
    with pytest.raises(UserError, match="damping"):
        solve(W, X, damping=-1.0)
    with pytest.raises(UserError, match="not divisible"):
        solve(W[:, :100], X[:, :100], group_size=64, name="fc2")
