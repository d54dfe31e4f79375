"""Layers outside the blocks: what conditions them reaches them, quantized layer after quantized layer."""

from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq import capture
from ditq.core.errors import DitqError, UserError
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN, AdaRound
from ditq.weights.arrays import solve
from ditq.weights.columns.hessian import Moments
from ditq.weights.columns.layer import solve_layer
from ditq.weights.embedders import Batch, check, solve_phase
from ditq.weights.mixed import dequantized
from tests.models.families import FAMILIES, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded
from tests.weights.test_convolutions import unfolded
from tests.weights.toy import toy_network

CONFIG = FAMILIES["sd3-medium"]
EMBEDDERS = [f"{name}_embedder.mlp.layers.{i}" for name in "ty" for i in (0, 2)]
TEXT, LAST = "context_embedder", "final_layer.linear"
ROWS = 48


@pytest.fixture
def network():
    return loaded(CONFIG, to_mlx(stability_weights(CONFIG)))


@pytest.fixture
def conditions():
    rng = np.random.default_rng(3)
    pooled = rng.standard_normal((ROWS, CONFIG.pooled_text_embed_dim)).astype(np.float32)
    return mx.array(np.linspace(1000, 20, ROWS).astype(np.float32)), mx.array(pooled)


def condition(network, timesteps, pooled):
    return network.condition(pooled, timesteps)


def codes(weight, x, xq, method, bits):
    return solve(
        np.array(weight), np.array(x), xq if xq is None else np.array(xq), bits, method=method, damping=0.1
    )[0].codes


def prepared(network, conditions):
    return lambda: [Batch(partial(network.given, *conditions))]


def test_all_adaln_layers_get_the_codes_of_their_common_input(network, conditions):
    method, layers = METHODS["gptq"](damping=0.1), capture.layers(network)
    paths = [path for path in layers if ".adaLN_modulation." in path]
    asked = {path: (method, Spec(3)) for path in paths}
    solved, reports = solve_phase(network, "prepare", asked, {}, prepared(network, conditions))
    x = nn.silu(condition(network, *conditions))
    assert list(solved) == paths == list(reports) and len(paths) == 7
    for path in paths:
        expected = codes(layers[path].weight, x, None, "gptq", 3)
        assert (np.array(solved[path].codes) != expected).mean() < 1e-3


def test_layers_that_share_an_input_and_a_method_share_one_pass(network, conditions):
    gptq, qronos = METHODS["gptq"](damping=0.1), METHODS["qronos"](damping=0.1)
    paths = [path for path in network.anatomy.paths(phase="prepare") if ".adaLN_modulation." in path]
    asked = {path: (qronos if "final" in path else gptq, Spec(3)) for path in paths}
    runs = []

    def counted():
        runs.append(1)
        return [Batch(partial(network.given, *conditions))]

    solve_phase(network, "prepare", asked, {}, counted)
    assert len(runs) == 2  # one for each method: nothing was quantized before the first of them


def test_qronos_makes_up_for_the_embedders_before(network, conditions):
    method, layers = METHODS["qronos"](damping=0.1), capture.layers(network)
    adaln = "multimodal_transformer_blocks.1.text_transformer_block.adaLN_modulation.layers.1"
    asked = {path: (method, Spec(3)) for path in [*EMBEDDERS, adaln]}
    solved, _ = solve_phase(network, "prepare", asked, {}, prepared(network, conditions))
    assert capture.layers(network) == layers
    x = nn.silu(condition(network, *conditions))
    with capture.swapped(network, dequantized(network, {path: solved[path] for path in EMBEDDERS})):
        xq = nn.silu(condition(network, *conditions))
    expected = codes(layers[adaln].weight, x, xq, "qronos", 3)
    assert (np.array(solved[adaln].codes) != expected).mean() < 1e-3
    assert (codes(layers[adaln].weight, x, None, "gptq", 3) != expected).mean() > 0.01


def test_text_comes_as_it_is_in_either_model(network, conditions):
    rng = np.random.default_rng(0)
    tokens = mx.array(rng.standard_normal((4, 7, CONFIG.token_level_text_embed_dim)).astype(np.float32))
    modulation = mx.zeros((4, sum(m.shape[-1] for m in network.given(*conditions).values())))
    run = partial(network.begin, mx.zeros((4, 8, 8, 16)), text=tokens, modulation=modulation)
    expected = codes(network.context_embedder.weight, tokens.reshape(28, -1), None, "gptq", 4)
    before, _ = solve_phase(network, "prepare", {EMBEDDERS[0]: (RTN(), Spec(2))}, {}, lambda: [])
    for name in ("gptq", "gptq-sequential"):
        asked = {TEXT: (METHODS[name](damping=0.1), Spec(4))}
        solved, _ = solve_phase(network, "begin", asked, before, lambda: [Batch(run)])
        assert (np.array(solved[TEXT].codes) != expected).mean() < 1e-3


@pytest.mark.parametrize("name", ["gptq", "gptq-sequential", "qronos"])
def test_last_layer_sees_what_left_the_blocks_in_each_model(network, conditions, name):
    rng = np.random.default_rng(0)
    image = mx.array(rng.standard_normal((ROWS, 16, CONFIG.hidden_size)).astype(np.float32))
    streams = {False: image, True: image + 0.1}
    before, _ = solve_phase(
        network, "prepare", {path: (RTN(), Spec(3)) for path in EMBEDDERS}, {}, lambda: []
    )

    def batches(quantized):
        for some in (slice(0, 20), slice(20, ROWS)):
            state = {"image": streams[quantized][some]}
            given = [array[some] for array in conditions]
            yield Batch(
                lambda state=state, given=given: network.finish({**state, **network.given(*given)}, 8, 8)
            )

    method = "qronos" if name == "qronos" else "gptq"
    asked = {LAST: (METHODS[name](damping=0.1), Spec(4))}
    solved, _ = solve_phase(network, "finish", asked, before, lambda: batches(False), lambda: batches(True))

    layer, seen = network.final_layer.linear, []
    for quantized in (False, True):
        modules = dequantized(network, before) if quantized else {}
        with capture.swapped(network, modules), capture.traced(network, [LAST], lambda _, x: seen.append(x)):
            network.finish({"image": streams[quantized], **network.given(*conditions)}, 8, 8)
    x, xq = (array.reshape(-1, CONFIG.hidden_size) for array in seen)
    given = {"gptq": (x, None), "gptq-sequential": (xq, None), "qronos": (x, xq)}[name]
    expected = codes(layer.weight, *given, method, 4)
    assert (np.array(solved[LAST].codes) != expected).mean() < 2e-3
    assert solve_phase(network, "finish", {}, {}, list, list) == ({}, {})


def test_convolutions_outside_the_blocks_are_solved_as_their_matrices():
    network, rng = toy_network(), np.random.default_rng(2)
    latents = rng.standard_normal((12, 8, 8, 4)).astype(np.float32)
    asked = {path: (METHODS["gptq"](damping=0.1), Spec(3)) for path in ("first", "last", "clock")}
    solved, _ = solve_phase(
        network, "begin", asked, {}, lambda: [Batch(partial(network.begin, mx.array(latents)))]
    )
    weight = np.array(network.first.weight).reshape(32, -1)
    expected = codes(weight, unfolded(network.first, latents), None, "gptq", 3)
    assert list(solved) == ["first"] and (np.array(solved["first"].codes) != expected).mean() < 1e-3
    layer = dequantized(network, solved)["first"]
    assert layer.weight.shape == network.first.weight.shape
    with capture.swapped(network, {"first": layer}):
        y = network.begin(mx.array(latents))["features"]
    patches = unfolded(network.first, latents) @ np.array(solved["first"].values()).T
    expected = patches.reshape(12, 8, 8, 32) + np.array(network.first.bias)
    np.testing.assert_allclose(np.array(y), expected, atol=1e-4)


def test_rounding_needs_no_data_and_block_methods_are_refused(network):
    solved, reports = solve_phase(network, "prepare", {EMBEDDERS[0]: (RTN(), Spec(8))}, {}, lambda: [])
    assert 0 < reports[EMBEDDERS[0]]["weight_error"] < 0.01 and solved[EMBEDDERS[0]].spec.bits == 8
    with pytest.raises(UserError, match="context_embedder: got method AdaRound, which works on the layers"):
        check({TEXT: (AdaRound(), Spec(4))})


def test_a_layer_that_its_phase_does_not_call_is_named(network):
    asked = {EMBEDDERS[0]: (METHODS["gptq"](), Spec(4))}
    with pytest.raises(DitqError, match="t_embedder.mlp.layers.0: not called in its phase 'prepare'"):
        solve_phase(network, "prepare", asked, {}, lambda: [Batch(lambda: None)])


def test_rows_that_are_held_out_judge_and_are_not_solved_with(network, conditions):
    """GPTQ of the rows that are left gives the same codes; the error is that of the held-out rows alone."""
    method, path, used = METHODS["gptq"](damping=0.1), EMBEDDERS[0], 160
    times = mx.array(np.linspace(1000, 20, 200).astype(np.float32))
    pooled = mx.zeros((200, CONFIG.pooled_text_embed_dim))
    asked, layer = {path: (method, Spec(3))}, capture.layers(network)[path]

    def run(rows):
        return partial(network.given, times[rows], pooled[rows])

    def batches():
        return [Batch(run(slice(0, used)), False), Batch(run(slice(used, 200)), True)]

    solved, reports = solve_phase(network, "prepare", asked, {}, batches)
    seen = []
    with capture.traced(network, [path], lambda _, x: seen.append(x)):
        network.given(times, pooled)
    x, moments = np.array(seen[0]), Moments(seen[0].shape[1])
    moments.add(x[:used], held_out=False)
    moments.add(x[used:], held_out=True)
    np.testing.assert_allclose(moments.finish().hessian.whole(), x[:used].T @ x[:used], rtol=1e-3, atol=1e-2)
    expected, _ = solve_layer(np.array(layer.weight), moments, Spec(3), method)
    assert (np.array(solved[path].codes) != np.array(expected.codes)).mean() < 1e-3
    weight, values = np.array(layer.weight), np.array(solved[path].values())
    error = np.linalg.norm(x[used:] @ (values - weight).T) / np.linalg.norm(x[used:] @ weight.T)
    assert reports[path]["error"] == pytest.approx(error, rel=1e-3)
    assert (reports[path]["rows"], reports[path]["judged_rows"]) == (used, 200 - used)


def test_rows_that_do_not_count_are_left_out(network, conditions):
    method, asked = METHODS["gptq"](damping=0.1), {}
    path = EMBEDDERS[0]
    asked[path] = (method, Spec(3))
    counting = np.arange(0, ROWS, 2)
    solved, reports = solve_phase(
        network, "prepare", asked, {}, lambda: [Batch(partial(network.given, *conditions), None, counting)]
    )
    few = [mx.array(np.array(one)[counting]) for one in conditions]
    alone, told = solve_phase(network, "prepare", asked, {}, prepared(network, few))
    assert mx.array_equal(solved[path].codes, alone[path].codes)
    assert reports[path]["rows"] == told[path]["rows"] == len(counting)
