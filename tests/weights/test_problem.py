"""What a problem says of its block: the layers to quantize, their matrices, and what is read behind it."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN, AdaRound, LayerSolver, Method, Mixed, block_specs
from tests.weights.problems import random_problem
from tests.weights.toy import toy_problem


def test_the_last_block_answers_for_its_image_alone_and_its_modulation_is_given():
    first, last = random_problem(0), random_problem(2)
    assert list(first.targets) == ["image", "text"] and list(last.targets) == ["image"]
    assert first.carried == last.carried == ("image", "text")
    assert set(first.inputs) - set(first.carried) == {"modulation.0"}
    down, up = toy_problem("down"), toy_problem("up")
    assert (down.carried, list(down.targets)) == (("features",), ["features", "skip"])
    assert (up.carried, list(up.targets)) == (("features", "skip"), ["features"])


def test_layers_to_quantize_are_those_that_run_in_the_block():
    problem = random_problem(0)
    assert len(problem.specs) == 12 and not any("adaLN" in path for path in problem.specs)
    halves = {path.split(".")[2] for path in problem.specs}
    assert halves == {"image_transformer_block", "text_transformer_block"}
    with pytest.raises(UserError, match="attn.k_proj: in_features 64 is not divisible.*group size 128"):
        block_specs(problem.block, problem.path, problem.anatomy, Spec(4, group_size=128))


def test_smoothing_factors_multiply_the_channels_of_a_matrix():
    factors = np.linspace(0.5, 2, 32).astype(np.float32)
    rows = GridRows(mx.array([0.1]), mx.array([-8.0]), mx.array([7.0]))
    grid = TimestepGrid(np.array([500.0], np.float32), rows, mx.array(factors))
    problem = toy_problem("down", table={"down.conv": grid, "down.time": grid})
    kernel = np.array(problem.block.conv.weight)
    expected = np.empty((32, 9 * 32), np.float32)
    for column in range(9 * 32):
        place, channel = divmod(column, 32)
        expected[:, column] = kernel[:, place // 3, place % 3, channel] * factors[channel]
    assert np.array_equal(np.array(problem.weight("down.conv")), expected)
    linear = np.array(problem.weight("down.time"))
    assert np.array_equal(linear, np.array(problem.block.time.weight) * factors)


def test_methods_have_their_interfaces():
    assert all(isinstance(method(), Method) for method in METHODS.values())
    assert isinstance(Mixed({"rtn": RTN()}, {}), Method)
    assert isinstance(RTN(), LayerSolver) and not isinstance(AdaRound(), LayerSolver)
