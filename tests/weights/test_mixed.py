"""Several methods in one block: each gets its own layers, and sees those before it as they have become."""

import numpy as np

from ditq.capture import linears, twin
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN, Mixed
from ditq.weights.layerwise import SequentialQronos
from tests.weights.problems import random_problem

NAMES = {"rtn": RTN(), "qronos": METHODS["qronos"](damping=0.1)}


def mixed(problem, rounded: str) -> Mixed:
    """Rounding for the layers whose paths end so, Qronos for the others."""
    return Mixed(NAMES, {path: "rtn" if path.endswith(rounded) else "qronos" for path in problem.specs})


def test_one_method_is_itself():
    problem = random_problem(spec=Spec(3), activation_bits=16)
    one, other = mixed(problem, "nothing").quantize(problem), NAMES["qronos"].quantize(problem)
    for path, weight in other.weights.items():
        np.testing.assert_array_equal(np.array(one.weights[path].codes), np.array(weight.codes))


def test_each_method_gets_its_layers_and_sees_the_rounded_ones():
    problem = random_problem(spec=Spec(3), rows=12, tokens=16, activation_bits=16)
    before = linears(problem.block)
    result = mixed(problem, "q_proj").quantize(problem)
    assert linears(problem.block) == before and set(result.weights) == set(problem.specs)
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
        elif path.endswith("o_proj"):
            assert differ[path] > 0.01  # the attention has seen rounded queries
    assert result.report["error"] < result.report["error_rounding"]
    assert set(result.report["methods"]) == {"rtn", "qronos"}


def test_a_twin_shares_parameters_and_not_places():
    block = random_problem().block
    other = twin(block)
    path = "image_transformer_block.mlp.fc1"
    assert linears(other)[path] is not linears(block)[path]
    assert linears(other)[path].weight is linears(block)[path].weight
    assert other.num_heads == block.num_heads and list(linears(other)) == list(linears(block))
