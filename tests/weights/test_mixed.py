"""Several methods in one block: each gets its own layers, and sees those before it as they have become."""

import numpy as np

from ditq.capture import layers
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN, LayerWork, Mixed, Work
from ditq.weights.layerwise import SequentialQronos
from tests.weights.problems import random_problem

NAMES = {"rtn": RTN(), "qronos": METHODS["qronos"](damping=0.1)}


def mixed(problem, rounded: str) -> Mixed:
    """Rounding for the layers whose paths end so, Qronos for the others."""
    return Mixed(NAMES, {path: "rtn" if path.endswith(rounded) else "qronos" for path in problem.specs})


def test_layers_solved_from_float_inputs_do_not_depend_on_how_they_are_divided():
    """Parallel GPTQ looks at the float model alone: two halves under two names are the whole, whichever comes first."""
    problem = random_problem(spec=Spec(3), activation_bits=16)
    gptq = METHODS["gptq"](damping=0.1)
    whole = gptq.quantize(problem)
    names = {path: "one" if number % 3 else "other" for number, path in enumerate(problem.specs)}
    for methods in ({"one": gptq, "other": gptq}, {"other": gptq, "one": gptq}):
        parts = Mixed(methods, names).quantize(problem)
        assert set(parts.report["methods"]) == {"one", "other"}
        for path, weight in whole.weights.items():
            np.testing.assert_array_equal(np.array(parts.weights[path].codes), np.array(weight.codes))
        assert parts.report["error"] == whole.report["error"]


def test_each_method_gets_its_layers_and_sees_the_rounded_ones():
    problem = random_problem(spec=Spec(3), rows=12, tokens=16, activation_bits=16)
    before = layers(problem.block)
    result = mixed(problem, "q_proj").quantize(problem)
    assert layers(problem.block) == before and set(result.weights) == set(problem.specs)
    plain, alone = RTN().quantize(problem).weights, SequentialQronos(damping=0.1).quantize(problem).weights
    differ = {
        path: (np.array(weight.codes) != np.array(alone[path].codes)).mean()
        for path, weight in result.weights.items()
    }
    for path, weight in result.weights.items():
        if path.endswith("q_proj"):
            np.testing.assert_array_equal(np.array(weight.codes), np.array(plain[path].codes))
        elif path.endswith(("k_proj", "v_proj")):
            assert differ[path] == 0  # their input is the block's
        elif path.endswith(
            "image_transformer_block.attn.o_proj"
        ):  # the text's rows are too few to be sure of a solver
            assert differ[path] > 0.01  # the attention has seen rounded queries
    assert result.report["error"] < result.report["error_rounding"]
    assert set(result.report["methods"]) == {"rtn", "qronos"}


def test_inputs_and_costs_are_those_of_its_methods():
    gptq, both = METHODS["gptq"](), METHODS["qronos"]()
    assert Mixed({"a": RTN(), "b": RTN()}, {"x": "a", "y": "b"}).streams == "none"
    assert Mixed({"a": RTN(), "b": gptq}, {"x": "a", "y": "b"}).streams == "float"
    assert Mixed({"a": METHODS["gptq-sequential"](), "b": gptq}, {"x": "a", "y": "b"}).streams == "both"
    work = Work(10, 0.1, {path: LayerWork(4, 8, 5, path, 0) for path in "xyz"})
    cost = Mixed({"a": RTN(), "b": gptq, "c": both}, {"x": "a", "y": "b", "z": "c"}).cost(work)
    one, other = gptq.cost(work.only("y")), both.cost(work.only("z"))
    assert cost == RTN().cost(work.only("x")) + one + other and cost.memory == max(one.memory, other.memory)
