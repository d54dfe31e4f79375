"""With few rows a solver is kept only where rows that it has not seen agree; the report claims no more than they do."""

import numpy as np
import pytest

from ditq.weights import solve
from ditq.weights.columns.few_rows import FOLDS
from ditq.weights.columns.held_out import EVERY, FEW


def inputs(kind, rows, columns, rng):
    """Independent channels, correlated ones (where GPTQ has most to gain), or some that are much larger."""
    x = rng.standard_normal((rows, columns))
    if kind == "correlated":
        turn, _ = np.linalg.qr(rng.standard_normal((columns, columns)))
        x = x @ ((turn * np.exp(-np.arange(columns) / (columns / 8))) @ turn.T + 0.05 * np.eye(columns))
    if kind == "outliers":
        x[:, ::9] *= 8
    return x.astype(np.float32)


def solved(kind, method, rows, columns, seed):
    """What a solution's error is on 400 fresh rows, over that of rounding on the same scales; and the report."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((16, columns)).astype(np.float32)
    X = inputs(kind, rows + 400, columns, rng)
    Xq = X
    if method == "qronos":
        Xq = X + 0.05 * X.std() * rng.standard_normal(X.shape).astype(np.float32)
    solution, report = solve(W, X[:rows], None if Xq is X else Xq[:rows], method=method)
    plain = np.clip(np.rint(W / solution.scales), -8, 7) * solution.scales
    fresh, quantized = X[rows:], Xq[rows:]
    errors = [np.linalg.norm(fresh @ W.T - quantized @ values.T) for values in (solution.values(), plain)]
    return errors[0] / errors[1], report


@pytest.mark.parametrize("method", ["gptq", "qronos"])
@pytest.mark.parametrize("rows", [1, 5, 16])
def test_fewer_rows_than_can_judge_keep_rounding_and_say_so(method, rows):
    for kind in ("independent", "correlated", "outliers"):
        ratio, report = solved(kind, method, rows, 96, rows)
        assert ratio == 1 and report.error == report.error_rounding
        assert report.rows == report.judged_rows == rows and report.damping == 0
        title = {"gptq": "GPTQ", "qronos": "Qronos"}[method]
        assert report.fallback == [f"kept round-to-nearest: {rows} rows are too few to judge {title} by"]


@pytest.mark.parametrize("method", ["gptq", "qronos"])
@pytest.mark.parametrize("kind", ["independent", "correlated", "outliers"])
def test_few_rows_are_never_worse_than_rounding_on_fresh_ones(method, kind):
    ratios = []
    for rows in (EVERY, 30, FEW - 1):
        for columns in (48, 80):
            ratio, report = solved(kind, method, rows, columns, rows)
            assert ratio <= 1, (rows, columns, report)
            assert report.rows == report.judged_rows == rows
            if ratio == 1:
                assert report.error == report.error_rounding
                assert "parts of the" in report.fallback[0] and f"of {FOLDS} parts" in report.fallback[0]
            else:
                assert report.error / report.error_rounding > ratio - 0.1  # it claims no more than is true
            ratios.append(ratio)
    assert kind != "correlated" or np.mean(ratios) < 0.95


@pytest.mark.parametrize("method", ["gptq", "qronos"])
def test_rows_that_repeat_are_no_more_rows(method):
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 32), (12, 32)))
    _, report = solve(W, np.tile(X, (8, 1)), method=method)
    assert "96 rows, 12 of them distinct, are too few" in report.fallback[0]
    assert report.error == report.error_rounding


def test_from_enough_rows_on_the_held_out_ones_judge():
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 32), (FEW, 32)))
    _, report = solve(W, X, method="gptq")
    assert report.rows == FEW - FEW // EVERY and report.judged_rows == FEW // EVERY
