"""What a method holds does not grow with the calibration samples, whose rows are read as they are needed."""

from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np
import pytest

from ditq.quantization.handed_on import handed_on
from ditq.weights import METHODS, RTN
from ditq.weights.layerwise import SequentialGPTQ
from tests.weights.toy import toy_problem

FEW, MANY = 48, 192


class Repeated:
    """The rows of an array over and over, made when they are asked for."""

    def __init__(self, array, rows):
        self.array, self.shape = array, (rows, *array.shape[1:])

    def rows(self, rows):
        return self.array[mx.array(rows % len(self.array))]


def problem_of(rows):
    small = toy_problem("up", 16)
    states = {
        name: {key: Repeated(array, rows) for key, array in getattr(small, name).items()}
        for name in ("inputs", "quantized_inputs", "targets")
    }
    timesteps = np.resize(small.timesteps, rows)
    return replace(small, timesteps=timesteps, pictures=np.arange(rows) // 8, **states)


def bytes_of(problem):
    """What inputs and targets take in float32."""
    return sum(4 * np.prod(array.shape) for array in (problem.inputs | problem.targets).values())


def peak_of(run):
    """Bytes of MLX's arrays at their most."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    run()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize(
    "name", ["rtn", "gptq", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qronos", "adaround"))]
)
def test_a_method_takes_the_same_memory_for_more_rows(name):
    fields = {"adaround": {"iterations": 2, "batch_size": 16}}
    method = METHODS[name](**fields.get(name, {}))
    few, many = (peak_of(partial(method.quantize, problem_of(rows))) for rows in (FEW, MANY))
    state = bytes_of(problem_of(MANY))
    # MLX may begin a batch before it has freed the last one
    assert many <= few + 0.25 * state, f"{few:,} and {many:,} bytes; the rows have {state:,}"


def test_what_is_handed_on_passes_through_memory_in_parts():
    def all_rows(rows):
        problem = problem_of(rows)
        return lambda: [None for _ in handed_on(problem, None)]

    few, many = (peak_of(all_rows(rows)) for rows in (FEW, MANY))
    assert many <= few + 0.25 * bytes_of(problem_of(MANY))
    problem = toy_problem("down", 20)
    parts = list(handed_on(problem, None))
    wanted = problem.block(*(problem.quantized_inputs[name] for name in problem.block.reads))
    for name, array in zip(problem.block.writes, wanted, strict=True):
        found = np.concatenate([np.array(part[name]) for part in parts])
        np.testing.assert_allclose(found, np.array(array), rtol=1e-5, atol=1e-6)
    for result in (RTN().quantize(problem), SequentialGPTQ().quantize(problem)):
        assert [set(part) for part in handed_on(problem, result)] == [set(problem.targets)] * 2
