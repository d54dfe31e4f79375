"""`solve` on inputs that nobody should have: finite results no worse than rounding, or one clear error."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.weights import solve

SCALES = (1e-38, 1e-30, 1e-20, 1e-10, 1.0, 1e5, 1e15, 1e18, 1e20, 1e30, 3e38)


def hostile_case(rng):
    """Weight, inputs and quantized inputs of one seeded case, and `solve`'s other arguments."""
    outs, columns = int(rng.integers(1, 9)), int(rng.choice([1, 2, 7, 32, 40, 64]))
    rows = int(rng.choice([1, 2, 5, 16, 17, 20, 40, 150]))
    W = rng.standard_normal((outs, columns)).astype(np.float32)
    X = rng.standard_normal((rows, columns)).astype(np.float32)
    for array in (W, X):
        kind = rng.integers(0, 8)
        with np.errstate(over="ignore", under="ignore"):
            if kind == 1:
                array *= np.float32(rng.choice(SCALES))
            if kind == 2:
                array[:] = 0
            if kind == 3:
                array[:, rng.integers(0, columns)] = rng.choice([0, 1, -7])
            if kind == 4:
                array[:, rng.integers(0, columns)] *= np.float32(rng.choice(SCALES))
            if kind == 5:
                array[:, columns // 2 :] = array[:, :1]
            if kind == 6:
                array[rng.integers(0, len(array))] *= np.float32(rng.choice(SCALES))
            if kind == 7:
                array[:] = array[:1]
    with np.errstate(over="ignore", invalid="ignore"):
        Xq = X * (1 + np.float32(0.01) * rng.standard_normal(X.shape).astype(np.float32))
    more = {
        "bits": int(rng.integers(2, 9)),
        "method": str(rng.choice(["gptq", "qronos"])),
        "symmetric": bool(rng.integers(0, 2)),
        "group_size": 32 if columns % 32 == 0 and rng.integers(0, 2) else None,
        "damping": [None, 0.0, 0.01, 1e6][rng.integers(0, 4)],
        "act_order": bool(rng.integers(0, 2)),
    }
    return W, X, None if rng.integers(0, 2) else Xq, more


@pytest.mark.parametrize("start", range(0, 240, 60))
def test_hostile_inputs_give_finite_results_or_one_clear_error(start):
    refused = 0
    for seed in range(start, start + 60):
        W, X, Xq, more = hostile_case(np.random.default_rng(seed))
        try:
            solution, report = solve(W, X, Xq, name="blocks.0.fc", **more)
        except UserError as error:
            assert str(error).startswith("blocks.0.fc: "), (seed, error)
            refused += 1
            continue
        assert np.isfinite(solution.values()).all() and (solution.scales > 0).all(), seed
        facts = (report.error, report.error_rounding, report.damping, report.condition)
        assert np.isfinite(facts).all() and report.error <= report.error_rounding, (seed, report)
    assert refused < 15


@pytest.mark.parametrize("method", ["gptq", "qronos"])
@pytest.mark.parametrize(("weights", "inputs"), [(1, 1e15), (1, 1e-20), (1e20, 1), (1e30, 1), (1e-30, 1e15)])
def test_scale_changes_no_code(method, weights, inputs):
    rng = np.random.default_rng(0)
    W = rng.standard_normal((16, 32)).astype(np.float32)
    X = (rng.standard_normal((300, 32)) @ rng.standard_normal((32, 32))).astype(np.float32)
    powers = [np.float32(2.0 ** np.round(np.log2(by))) for by in (weights, inputs)]
    usual, report = solve(W, X, method=method)
    found, other = solve(W * powers[0], X * powers[1], method=method)
    assert np.array_equal(found.codes, usual.codes)
    assert np.array_equal(found.scales, usual.scales * powers[0])
    assert (other.error, other.error_rounding) == (report.error, report.error_rounding)
    assert 0.01 < other.error < other.error_rounding < 0.5


@pytest.mark.parametrize("method", ["gptq", "qronos"])
def test_a_channel_of_1e18(method):
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 32), (300, 32)))
    X[:, 5] *= 1e18
    _, report = solve(W, X, X * np.float32(1.001), method=method)
    assert report.error <= report.error_rounding < 1 and np.isfinite(report.damping)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"W": np.zeros((0, 32), np.float32)}, r"fc: weight: got shape \(0, 32\); expected \(out, in\)"),
        ({"W": np.zeros((4, 0), np.float32)}, r"fc: weight: got shape \(4, 0\)"),
        ({"W": np.zeros(32, np.float32)}, r"fc: weight: got shape \(32,\)"),
        ({"W": np.zeros((4, 32), complex)}, "fc: weight: got complex128; expected .* real numbers"),
        ({"W": np.full((4, 32), 1e300)}, "fc: weight: got values that are not finite"),
        ({"X": np.array(1.0, np.float32)}, "fc: inputs: got a single number"),
        ({"X": np.full((20, 32), 1e300)}, "fc: calibration inputs: got 20 of 20 rows with NaN or infinity"),
        ({"X": np.zeros((20, 32), "U3")}, "fc: inputs: got <U3"),
        ({"bits": "4"}, "bits: got '4'; expected a whole number"),
        ({"bits": 4.0}, "bits: got 4.0"),
        ({"group_size": "32"}, "group size: got '32'"),
        ({"damping": "0.1"}, "damping: got '0.1'"),
        ({"damping": float("nan")}, "damping: got nan"),
        ({"damping": float("inf")}, "damping: got inf"),
        ({"damping": []}, r"damping: got \[\]"),
        ({"damping": True}, "damping: got True"),
        ({"symmetric": "no"}, "symmetric: got 'no'; expected True or False"),
        ({"symmetric": None}, "symmetric: got None"),
        ({"symmetric": 2}, "symmetric: got 2"),
        ({"act_order": "x"}, "act_order: got 'x'; expected True or False"),
        ({"search": "x"}, "search: got 'x'; expected True or False"),
        ({"W": np.ma.masked_greater(np.eye(4, 32), 0.5)}, "fc: weight: got 4 masked values"),
        ({"X": np.ma.masked_less(np.eye(40, 32), 0.5)}, "fc: inputs: got 1,248 masked values"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_misuse_is_one_clear_error(change, message):
    rng = np.random.default_rng(0)
    given = {"W": rng.standard_normal((4, 32)), "X": rng.standard_normal((20, 32)), "name": "fc", **change}
    with pytest.raises(UserError, match=message):
        solve.__wrapped__(**given) if hasattr(solve, "__wrapped__") else solve(**given)


@pytest.mark.filterwarnings("error", "ignore:the matrix subclass")
def test_any_kind_of_numpy_array_gives_what_a_plain_one_does():
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 32), (300, 32)))
    W, X = W[::-1, ::-1], X[:, ::-1]
    wanted, _ = solve(W.copy(), X.copy())
    kinds = [(W, X), (np.matrix(W), np.matrix(X)), (np.ma.masked_array(W), np.ma.masked_array(X))]
    for weight, inputs in kinds:
        found, _ = solve(weight, inputs)
        assert type(found.codes) is np.ndarray and np.array_equal(found.codes, wanted.codes)


@pytest.mark.parametrize("method", ["gptq", "qronos"])
@pytest.mark.parametrize("damping", [1e38, 1e300])
@pytest.mark.parametrize("rows", [40, 300])
@pytest.mark.filterwarnings("error")
def test_a_huge_damping_warns_of_nothing(method, damping, rows):
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 32), (rows, 32)))
    solution, report = solve(W, X, method=method, damping=damping)
    assert np.isfinite(solution.values()).all() and report.error <= report.error_rounding


def test_numpy_numbers_are_numbers():
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 32), (300, 32)))
    plain, _ = solve(W, X, damping=0.01)
    for damping in (np.float32(0.01), np.array(0.01), [np.float64(0.01)], np.array([0.01])):
        report = solve(W, X, bits=np.int64(4), group_size=np.int32(32), damping=damping)[1]
        assert report.damping == pytest.approx(0.01)
    assert np.array_equal(solve(W, X, damping=np.array(0.01))[0].codes, plain.codes)
    assert isinstance(solve(mx.array(W), mx.array(X))[0].codes, mx.array)
