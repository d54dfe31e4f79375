"""Each layer of a block gets the codes that the plain-array solver gives for the inputs that the layer really has."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.calibration.block_cache import run_block
from ditq.capture import linears, swapped
from ditq.core.errors import DitqError
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN
from ditq.weights.arrays import solve
from ditq.weights.columns.hessian import Moments
from ditq.weights.input_grids import inputs_of
from ditq.weights.layerwise import (
    ParallelGPTQ,
    SequentialGPTQ,
    SequentialQronos,
    parts_of,
    quantized_inputs,
    stages,
)
from tests.weights.problems import random_problem

ORDER = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]


class Spy(nn.Module):
    """Keeps what a layer receives."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.seen = layer, []

    def __call__(self, x):
        self.seen.append(np.array(x).reshape(-1, x.shape[-1]))
        return self.layer(x)


def received(problem, streams, weights=None):
    """What every layer receives when those in `weights` have other weights: an independent walk through the block."""
    modules = {inside: layer for inside, layer in linears(problem.block).items() if "adaLN" not in inside}
    for path, weight in (weights or {}).items():
        inside = problem.inside(path)
        other = nn.Linear(*reversed(weight.shape))
        other.weight, other.bias = weight.values(), modules[inside].bias
        modules[inside] = other
    spies = {inside: Spy(layer) for inside, layer in modules.items()}
    with swapped(problem.block, spies):
        mx.eval(vars(run_block(problem.block, streams, problem.modulation)))
    return {f"{problem.path}.{inside}": spy.seen[0] for inside, spy in spies.items()}


def solved(problem, path, x, xq, method):
    spec = problem.specs[path]
    weight = np.array(problem.weight(path))
    grid = dict(bits=spec.bits, group_size=spec.group_size, symmetric=spec.symmetric)
    return solve(weight, x, xq, method=method, damping=0.1, name=path, **grid)[0]


@pytest.mark.parametrize("family", ["sd3-medium", "sd3.5-medium"])
def test_parallel_gptq_sees_the_float_stream_alone(family):
    problem = random_problem(family=family, rows=12, tokens=16, spec=Spec(3))
    result = ParallelGPTQ(damping=0.1).quantize(problem)
    x = received(problem, problem.inputs)
    assert list(result.weights) == list(problem.specs)
    for path, weight in result.weights.items():
        codes = solved(problem, path, x[path], None, "gptq").codes
        assert (np.array(weight.codes) != codes).mean() < 1e-3, path


@pytest.mark.parametrize(
    ("method", "name"),
    [(SequentialGPTQ(damping=0.1), "gptq"), (SequentialQronos(damping=0.1), "qronos")],
    ids=["gptq", "qronos"],
)
def test_sequential_methods_see_the_layers_before_quantized(method, name):
    problem = random_problem(rows=12, tokens=16, spec=Spec(3, group_size=32), activation_bits=16)
    result = method.quantize(problem)
    x = received(problem, problem.inputs)
    for path, weight in result.weights.items():
        place = next(i for i, stage in enumerate(stages(problem.specs)) if path in stage)
        before = {other: result.weights[other] for stage in stages(problem.specs)[:place] for other in stage}
        xq = received(problem, problem.quantized_inputs, before)
        given = (xq[path], None) if name == "gptq" else (x[path], xq[path])
        codes = solved(problem, path, *given, name).codes
        # another order of additions may turn a tie; a wrong stream turns a good part of all codes
        assert (np.array(weight.codes) != codes).mean() < 1e-3, path
    assert not np.array_equal(xq[path], x[path])


@pytest.mark.parametrize("name", ["gptq", "gptq-sequential", "qronos"])
def test_reports_name_every_layer_and_no_layer_is_worse_than_rounding(name):
    problem, told = random_problem(rows=12, tokens=16), []
    result = METHODS[name]().quantize(problem, lambda number, loss: told.append(number))
    assert told == list(range(1, 13)) and set(result.report["layers"]) == set(problem.specs)
    assert all(one["error"] <= one["error_rounding"] for one in result.report["layers"].values())
    assert (
        result.report["error"]
        < result.report["error_rounding"]
        == pytest.approx(result.report["error_rounding"])
    )
    assert result.report["error"] < RTN().quantize(problem).report["error"]


def test_quantized_inputs_stand_on_their_grids():
    problem = random_problem(rows=12, tokens=16, activation_bits=5)
    path = next(path for path in problem.specs if path.endswith("image_transformer_block.attn.q_proj"))
    seen = quantized_inputs(problem, inputs_of(problem), {}, [path], np.arange(problem.rows))[path]
    assert len(np.unique(np.array(seen))) <= 2**5
    plain = received(problem, problem.quantized_inputs)[path]
    assert np.abs(np.array(seen).reshape(plain.shape) - plain).mean() < 0.1 * np.abs(plain).mean()


def test_the_block_is_as_it_was_afterwards():
    problem = random_problem()
    before = linears(problem.block)
    SequentialQronos().quantize(problem)
    assert linears(problem.block) == before


def test_order_of_execution():
    paths = [f"b.image_transformer_block.attn.{n}" for n in ORDER[3::-1]] + ["b.mlp.fc2", "b.mlp.fc1"]
    found = [[path.rpartition(".")[2] for path in stage] for stage in stages(paths)]
    assert found == [["v_proj", "k_proj", "q_proj"], ["o_proj"], ["fc1"], ["fc2"]]
    with pytest.raises(DitqError, match="b.gate: at no known place"):
        stages(["b.gate"])


def test_whole_pictures_judge_and_are_kept_out_of_the_sums():
    parts = list(parts_of(64))
    judging = np.concatenate([rows for rows, judges in parts if judges])
    assert judging.tolist() == list(range(56, 64))  # rows come picture by picture
    assert np.concatenate([rows for rows, _ in parts]).tolist() == list(range(64))
    assert [judges for _, judges in parts_of(20)] == [None, None]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 8)).astype(np.float32)
    moments = Moments(8)
    moments.add(x[:1000], judges=False)
    moments.add(x[1000:], judges=True)
    moments.finish()
    assert moments.rows == 1000
    np.testing.assert_allclose(moments.hessian.whole(), x[:1000].T @ x[:1000], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(moments.held_out()[0], x[1000:])
