"""Every method on a convolution against the same method on the linear layer of its unfolded matrix."""

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq import capture
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN, AdaRound, Mixed, block_specs
from ditq.weights.block_error import block_error, stream_powers
from ditq.weights.input_grids import inputs_of, inputs_of_result
from ditq.weights.layerwise import float_inputs, quantized_inputs
from tests.weights.problems import OneLayer, linear, one_layer_problem
from tests.weights.toy import toy_network, toy_problem

ROWS, SIDE, CHANNELS, OUT = 40, 5, 32, 6
LAYER_METHODS = ["rtn", "gptq", "gptq-sequential", "qronos"]
LAYERS = {
    "3x3": dict(kernel_size=3, padding=1),
    "3x3 strided": dict(kernel_size=3, stride=2, padding=1),
    "2x2 unpadded": dict(kernel_size=2, bias=False),
    "1x1": dict(kernel_size=1),
}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unfolded(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """A patch per output pixel, (rows, pixels, columns), by a loop over pixels."""
    _, high, wide, _ = layer.weight.shape
    (up, left), (down, across) = layer.padding, layer.stride
    x = np.pad(x, [(0, 0), (up, up), (left, left), (0, 0)])
    return np.stack(
        [
            x[:, i : i + high, j : j + wide].reshape(len(x), -1)
            for i in range(0, x.shape[1] - high + 1, down)
            for j in range(0, x.shape[2] - wide + 1, across)
        ],
        axis=1,
    )


def grid(smooth: bool) -> TimestepGrid:
    """A grid with three rows and, if asked for, smoothing factors."""
    rows = GridRows(mx.array([0.03, 0.04, 0.02]), mx.array([-128.0, -32, -128]), mx.array([127.0, 31, 127]))
    factors = mx.array((0.5 + np.random.default_rng(8).random(CHANNELS)).astype(np.float32))
    return TimestepGrid(np.array([40.0, 20, 1], np.float32), rows, factors if smooth else None)


def pair(kind, spec, smooth=None):
    """The problem of a convolution and that of its unfolded matrix; `smooth` says whether grids have factors."""
    conv = nn.Conv2d(CHANNELS, OUT, **LAYERS[kind])
    conv.weight = mx.array(normal(*conv.weight.shape, seed=1))
    mix = np.eye(CHANNELS) + 0.3 * normal(CHANNELS, CHANNELS, seed=2)
    image = (normal(ROWS, SIDE, SIDE, CHANNELS) @ mix).astype(np.float32)
    noisy = image + 0.1 * normal(*image.shape, seed=3)
    matrix = linear(np.array(conv.weight).reshape(OUT, -1), conv.bias if "bias" in conv else None)
    own, patched = {}, {}
    if smooth is not None:
        one = grid(smooth)
        kernel = matrix.weight.shape[1] // CHANNELS
        wide = replace(one, smooth=None if one.smooth is None else mx.tile(one.smooth, [kernel]))
        own, patched = {"table": {"block.layer": one}}, {"table": {"block.layer": wide}}
    folded = one_layer_problem(
        conv, mx.array(image), spec, quantized_inputs={"image": mx.array(noisy)}, **own
    )
    flat = {"image": mx.array(unfolded(conv, noisy))}
    return folded, one_layer_problem(
        matrix, mx.array(unfolded(conv, image)), spec, quantized_inputs=flat, **patched
    )


def solved(method, problem):
    result = method.quantize(problem)
    return result.weights["block.layer"], result.report


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("spec", [Spec(3), Spec(4, symmetric=False, group_size=32)], ids=str)
@pytest.mark.parametrize("name", LAYER_METHODS)
def test_codes_are_bit_for_bit_those_of_the_unfolded_matrix(name, spec, kind):
    conv, flat = (solved(METHODS[name](), problem) for problem in pair(kind, spec))
    for part in ("codes", "scale", "zero"):
        assert np.array_equal(*(np.array(getattr(weight, part)) for weight, _ in (conv, flat)))
    assert conv[1].get("layers") == flat[1].get("layers")
    assert conv[1]["error"] == pytest.approx(flat[1]["error"], rel=1e-4)


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("name", ["rtn", "gptq-sequential", "qronos"])
def test_grids_and_smoothing_factors_are_those_of_input_channels(name, smooth):
    problems = pair("3x3 strided", Spec(4), smooth)
    conv, flat = (solved(METHODS[name](), problem)[0] for problem in problems)
    assert np.array_equal(np.array(conv.codes), np.array(flat.codes))
    assert conv.smooth is None if not smooth else conv.smooth.shape == (CHANNELS,)
    assert np.array_equal(np.array(conv.effective()), np.array(flat.effective()))


@pytest.mark.parametrize("smooth", [None, True])
def test_adaround_and_flips_learn_what_they_learn_on_the_unfolded_matrix(smooth):
    """Not bit for bit: a convolution adds its products in another order."""
    method = AdaRound(iterations=20, batch_size=8, flips=1, flip_pull=0.0, drop=0.0)
    (conv, told), (flat, expected) = (solved(method, problem) for problem in pair("3x3", Spec(3), smooth))
    assert told["losses"] == pytest.approx(expected["losses"], rel=1e-3)
    assert (np.array(conv.codes) != np.array(flat.codes)).mean() < 0.02
    assert (
        told["error"] == pytest.approx(expected["error"], rel=0.02)
        and told["error"] < 0.9 * told["error_rounding"]
    )


def test_padding_stays_zero_on_a_shifted_grid():
    problem = pair("3x3", Spec(4), False)[0]
    shifted = grid(False)
    shifted = replace(shifted, rows=replace(shifted.rows, shift=mx.array([[0.01], [0.013], [0.007]])))
    problem = replace(problem, table={"block.layer": shifted})
    rows = np.arange(4)
    seen = quantized_inputs(problem, inputs_of(problem), {}, ["block.layer"], rows)["block.layer"]
    on_grid = inputs_of(problem).of(["block.layer"], mx.array(rows))["block.layer"](
        problem.quantized_inputs["image"][:4]
    )
    assert np.array_equal(np.array(seen), unfolded(problem.layer("block.layer"), np.array(on_grid)))
    assert (np.array(seen)[:, 0, :CHANNELS] == 0).all() and not (np.array(on_grid) == 0).any()
    plain = float_inputs(problem, ["block.layer"], rows)["block.layer"]
    assert np.array_equal(
        np.array(plain), unfolded(problem.layer("block.layer"), np.array(problem.inputs["image"][:4]))
    )


def test_groups_divide_the_input_channels():
    """Groups of 64 divide the 128 columns, but a group would hold channels of two places of the kernel."""
    conv = nn.Conv2d(CHANNELS, OUT, 2)
    problem = one_layer_problem(conv, mx.array(normal(2, SIDE, SIDE, CHANNELS)), Spec(4))
    assert block_specs(OneLayer(conv), "block", problem.anatomy, Spec(4, group_size=32))
    with pytest.raises(UserError, match="block.layer: in_features 32 is not divisible.*got group size 64"):
        block_specs(OneLayer(conv), "block", problem.anatomy, Spec(4, group_size=64))


@pytest.mark.parametrize("block", ["down", "up"])
@pytest.mark.parametrize(
    "method",
    [*(METHODS[name]() for name in LAYER_METHODS), AdaRound(30, 8), AdaRound(6, 8, flips=1)],
    ids=[*LAYER_METHODS, "adaround", "flips"],
)
def test_blocks_with_convolutions_skips_and_text_go_through_every_method(block, method):
    problem = toy_problem(block, spec=Spec(3))
    before = capture.layers(problem.block)
    result = method.quantize(problem)
    assert capture.layers(problem.block) == before and list(result.weights) == list(problem.specs)
    assert result.activations is not None and set(result.activations) == set(problem.specs)
    rows, powers = np.arange(problem.rows), stream_powers(problem)
    error = block_error(problem, result.weights, inputs_of_result(problem, result), rows, powers)
    assert error == pytest.approx(result.report["error"], rel=1e-5)
    rounded = RTN().quantize(problem).report["error"]
    assert error == pytest.approx(rounded) if method == RTN() else error < rounded
    if block == "up":  # keys and values read one input, the queries another
        grids = [result.activations[f"up.{letter}"] for letter in "qkv"]
        assert grids[1] is grids[2] is not grids[0]


def test_mixed_methods_see_a_rounded_convolution():
    problem = toy_problem("up", spec=Spec(3), activation_bits=16)
    names = {path: "rtn" if path == "up.q" else "qronos" for path in problem.specs}
    result = Mixed({"rtn": RTN(), "qronos": METHODS["qronos"]()}, names).quantize(problem)
    plain = RTN().quantize(problem).weights["up.q"]
    assert (result.weights["up.q"].codes == plain.codes).all().item()
    assert result.report["error"] < result.report["error_rounding"]


def test_a_layer_that_the_anatomy_does_not_know_is_named():
    network = toy_network()
    network.down.extra = nn.Linear(4, 4)
    with pytest.raises(Exception, match="down.extra: not a layer that the anatomy of toy knows"):
        block_specs(network.down, "down", network.anatomy, Spec(4))
