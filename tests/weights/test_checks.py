"""Values that would end in NaN, and a cache of another block, are named before any method computes."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models.state import run_block
from ditq.weights import METHODS, RTN, AdaRound, Mixed
from ditq.weights.checks import check_problem
from ditq.weights.layerwise import SequentialGPTQ
from tests.weights.problems import layer_problem, random_problem
from tests.weights.toy import toy_problem

ALL = [*(method() for method in METHODS.values()), AdaRound(iterations=2, flips=1)]


def spoiled(array, row, value):
    """The array with one value of a row replaced."""
    changed = np.array(array)
    changed[row].reshape(-1)[3] = value
    return mx.array(changed)


@pytest.mark.parametrize(
    "method", ALL, ids=lambda method: f"{type(method).__name__} {getattr(method, 'flips', '')}"
)
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38], ids=str)
def test_what_is_not_finite_is_named_at_once(method, value):
    problem, told = toy_problem("up"), "not finite|squares overflow"
    for field, what in (
        ("inputs", "inputs"), ("quantized_inputs", "quantized inputs"), ("targets", "cached outputs")
    ):  # fmt: skip
        arrays = getattr(problem, field)
        changed = replace(problem, **{field: {**arrays, "features": spoiled(arrays["features"], 5, value)}})
        with pytest.raises(UserError, match=f"up: {what} 'features', row 5: got .*({told})"):
            method.quantize(changed)
    layer = problem.layer("up.q")
    layer.weight = spoiled(layer.weight, 0, value)
    with pytest.raises(UserError, match=f"up.q: weight: got .*({told})"):
        method.quantize(problem)


@pytest.mark.parametrize(
    "method", ALL, ids=lambda method: f"{type(method).__name__} {getattr(method, 'flips', '')}"
)
def test_a_cache_of_another_block_is_told(method):
    problem = random_problem(rows=3)
    other = random_problem(1, rows=3)
    outputs = run_block(other.block, {**problem.inputs, "modulation.1": problem.inputs["modulation.0"]})
    targets = {name: outputs[name] for name in problem.targets}
    with pytest.raises(
        UserError, match="cached outputs 'image': got .* away from what the block makes.*--force"
    ):
        method.quantize(replace(problem, targets=targets))


def test_mixed_methods_check_too():
    problem = toy_problem("up")
    names = dict.fromkeys(problem.specs, "rtn") | {"up.q": "gptq"}
    broken = replace(problem, targets={"features": problem.targets["features"] * mx.nan})
    with pytest.raises(UserError, match="up: cached outputs 'features', row 0"):
        Mixed({"rtn": RTN(), "gptq": SequentialGPTQ()}, names).quantize(broken)


def test_stored_in_half_precision_a_cache_still_agrees():
    problem = random_problem(rows=4)
    for dtype in (mx.float16, mx.bfloat16):
        states = (problem.inputs, problem.targets)
        inputs, targets = ({n: x.astype(dtype).astype(mx.float32) for n, x in s.items()} for s in states)
        check_problem(replace(problem, inputs=inputs, targets=targets))


def test_an_optimisation_that_overflows_is_told_with_its_iteration():
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 8), (12, 8)))
    problem = replace(layer_problem(W, X, Spec(4)), activation_bits=8)
    with pytest.raises(UserError, match=r"block: iteration \d+: got a loss of (nan|inf); expected a finite"):
        AdaRound(iterations=20, lr_scale=1e30).quantize(problem)


def test_a_layer_alone_names_itself():
    with pytest.raises(UserError, match="last: weight: got values that are not finite"):
        RTN().solve(np.full((2, 4), np.nan, np.float32), None, Spec(4), "last")
    with pytest.raises(UserError, match="last: weight: got values beyond 1e19"):
        RTN().solve(np.full((2, 4), 1e30, np.float32), None, Spec(4), "last")


@pytest.mark.parametrize(
    "method", ALL, ids=lambda method: f"{type(method).__name__} {getattr(method, 'flips', '')}"
)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e15, 1e18, 1e30])
def test_inputs_of_any_scale_end_in_numbers_or_one_clear_error(method, scale):
    rng = np.random.default_rng(0)
    W, X = (rng.standard_normal(shape).astype(np.float32) for shape in ((4, 8), (40, 8)))
    for channels in (slice(5, 6), slice(None)):
        scaled = X.copy()
        scaled[:, channels] *= np.float32(scale)
        try:
            report = method.quantize(layer_problem(W, scaled, Spec(4))).report
        except UserError as error:
            assert str(error).startswith("block"), error
            continue
        found = [report["error"], report["error_rounding"]]
        for layer in report.get("layers", {}).values():
            found += [layer["error"], layer["error_rounding"], layer["damping"], layer["condition"]]
        assert np.isfinite(found).all() and report["error"] <= 1.001 * report["error_rounding"], report
