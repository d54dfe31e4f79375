"""Each layer of a block gets the codes that the plain-array solver gives for the inputs that the layer really has."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.capture import layers, swapped
from ditq.core import affine
from ditq.core.spec import Spec
from ditq.models.state import run_block
from ditq.weights import METHODS, RTN
from ditq.weights.arrays import solve
from ditq.weights.block_error import held_out_rows
from ditq.weights.columns.hessian import Moments
from ditq.weights.input_grids import inputs_of
from ditq.weights.layerwise import (
    ParallelGPTQ,
    SequentialGPTQ,
    SequentialQronos,
    parts_of,
    quantized_inputs,
)
from tests.weights.problems import linear, random_problem


class Spy(nn.Module):
    """Keeps what a layer receives."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.seen = layer, []

    def __call__(self, x):
        self.seen.append(np.array(x).reshape(-1, x.shape[-1]))
        return self.layer(x)


def walked(problem, state, weights=None):
    """What every layer receives, and what the block writes, when those in `weights` have other weights: an independent
    walk through the block."""
    modules = {inside: layer for inside, layer in layers(problem.block).items() if "adaLN" not in inside}
    for path, weight in (weights or {}).items():
        inside = problem.inside(path)
        modules[inside] = linear(weight.values(), modules[inside].bias)
    spies = {inside: Spy(layer) for inside, layer in modules.items()}
    with swapped(problem.block, spies):
        after = run_block(problem.block, state)
        mx.eval(after)
    return {f"{problem.path}.{inside}": spy.seen[0] for inside, spy in spies.items()}, after


def received(problem, state, weights=None):
    return walked(problem, state, weights)[0]


def true_error(problem, weights, rows):
    """How far the block with these weights is from the targets on some rows, in NumPy; no grids of activations."""
    after = walked(problem, problem.quantized_inputs, weights)[1]
    errors = []
    for name, target in problem.targets.items():
        target = np.array(target, np.float64)
        errors.append(np.square(np.array(after[name])[rows] - target[rows]).mean() / np.square(target).mean())
    return np.mean(errors)


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
        stages = problem.anatomy.stages(problem.specs)
        place = next(i for i, stage in enumerate(stages) if path in stage)
        before = {other: result.weights[other] for stage in stages[:place] for other in stage}
        xq = received(problem, problem.quantized_inputs, before)
        given = (xq[path], None) if name == "gptq" else (x[path], xq[path])
        codes = solved(problem, path, *given, name).codes
        # another order of additions may turn a tie; a wrong stream turns a good part of all codes
        assert (np.array(weight.codes) != codes).mean() < 1e-3, path
    assert not np.array_equal(xq[path], x[path])


@pytest.mark.parametrize("name", ["gptq", "gptq-sequential", "qronos"])
def test_reports_name_every_layer_and_no_layer_is_worse_than_rounding(name):
    problem, told = random_problem(rows=12, tokens=16), []
    result = METHODS[name](damping=(0.03, 0.1)).quantize(problem, lambda number, loss: told.append(number))
    assert told == list(range(1, 13)) and set(result.report["layers"]) == set(problem.specs)
    assert all(one["error"] <= one["error_rounding"] for one in result.report["layers"].values())
    assert result.report["error"] < RTN().quantize(problem).report["error"]


@pytest.mark.parametrize(("number", "rows"), [(0, 12), (2, 40)])
def test_reported_errors_are_those_of_an_independent_walk(number, rows):
    """Of the weights, and of rounding on the same scales; on the held-out rows; of the streams that are read."""
    problem = random_problem(number, rows=rows, spec=Spec(3), activation_bits=16)
    result = METHODS["qronos"](damping=0.1).quantize(problem)
    _, held_out = held_out_rows(problem)
    assert len(held_out) == (rows if rows < 32 else rows // 8)
    rounded = {
        path: replace(
            weight, codes=affine.quantize(problem.weight(path), weight.scale, weight.zero, weight.spec)
        )
        for path, weight in result.weights.items()
    }
    assert list(problem.targets) == (["image"] if number == 2 else ["image", "text"])
    for weights, name in ((result.weights, "error"), (rounded, "error_rounding")):
        assert result.report[name] == pytest.approx(true_error(problem, weights, held_out), rel=1e-4)
    assert result.report["error"] < result.report["error_rounding"]


def test_quantized_inputs_stand_on_their_grids():
    problem = random_problem(rows=12, tokens=16, activation_bits=5)
    path = next(path for path in problem.specs if path.endswith("image_transformer_block.attn.q_proj"))
    seen = quantized_inputs(problem, inputs_of(problem), {}, [path], np.arange(problem.rows))[path]
    assert len(np.unique(np.array(seen))) <= 2**5
    plain = received(problem, problem.quantized_inputs)[path]
    assert np.abs(np.array(seen).reshape(plain.shape) - plain).mean() < 0.1 * np.abs(plain).mean()


def test_the_block_is_as_it_was_afterwards():
    problem = random_problem()
    before = layers(problem.block)
    SequentialQronos(damping=0.1).quantize(problem)
    assert layers(problem.block) == before


def test_whole_pictures_are_held_out_and_kept_out_of_the_sums():
    problem = replace(random_problem(rows=64), pictures=np.repeat(np.arange(16), 4))
    parts = list(parts_of(problem))
    held = np.concatenate([rows for rows, held_out in parts if held_out])
    assert held.tolist() == [28, 29, 30, 31, 60, 61, 62, 63]  # the pictures 7 and 15
    assert sorted(np.concatenate([rows for rows, _ in parts])) == list(range(64))
    assert {held_out for _, held_out in parts_of(random_problem(rows=20))} == {None}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3000, 8)).astype(np.float32)
    moments = Moments(8)
    moments.add(x[:1000], held_out=False)
    moments.add(x[1000:], held_out=True)
    moments.finish()
    assert moments.rows == 1000
    np.testing.assert_allclose(moments.hessian.whole(), x[:1000].T @ x[:1000], rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(moments.held_out()[0], x[1000::3])  # one of three, of many
