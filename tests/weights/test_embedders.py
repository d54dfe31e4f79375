"""Layers outside the blocks: what conditions them reaches them, quantized layer after quantized layer."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.capture import linears, swapped
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.weights import METHODS, RTN, AdaRound
from ditq.weights.arrays import solve
from ditq.weights.embedders import LAST, TEXT, check, condition_layers, last_layer, text_layer
from ditq.weights.mixed import dequantized
from tests.models.families import FAMILIES, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded

CONFIG = FAMILIES["sd3-medium"]
EMBEDDERS = [f"{name}_embedder.mlp.layers.{i}" for name in "ty" for i in (0, 2)]
ROWS = 48


@pytest.fixture
def model():
    return loaded(CONFIG, to_mlx(stability_weights(CONFIG)))


@pytest.fixture
def conditions():
    rng = np.random.default_rng(3)
    pooled = rng.standard_normal((ROWS, CONFIG.pooled_text_embed_dim)).astype(np.float32)
    return mx.array(pooled), mx.array(np.linspace(1000, 20, ROWS).astype(np.float32))


def codes(weight, x, xq, method, bits):
    return solve(
        np.array(weight), np.array(x), xq if xq is None else np.array(xq), bits, method=method, damping=0.1
    )[0].codes


def test_all_adaln_layers_get_the_codes_of_their_common_input(model, conditions):
    method = METHODS["gptq"](damping=0.1)
    paths = [path for path in linears(model) if ".adaLN_modulation." in path]
    asked = {path: (method, Spec(3)) for path in paths}
    solved, reports = condition_layers(model, asked, *conditions)
    x = nn.silu(model.condition(*conditions))
    assert list(solved) == paths == list(reports) and len(paths) == 7
    for path in paths:
        expected = codes(linears(model)[path].weight, x, None, "gptq", 3)
        assert (np.array(solved[path].codes) != expected).mean() < 1e-3


def test_qronos_makes_up_for_the_embedders_before(model, conditions):
    method = METHODS["qronos"](damping=0.1)
    adaln = "multimodal_transformer_blocks.1.text_transformer_block.adaLN_modulation.layers.1"
    asked = {path: (method, Spec(3)) for path in [*EMBEDDERS, adaln]}
    solved, _ = condition_layers(model, asked, *conditions)
    x = nn.silu(model.condition(*conditions))
    with swapped(model, dequantized(model, {path: solved[path] for path in EMBEDDERS})):
        xq = nn.silu(model.condition(*conditions))
    expected = codes(linears(model)[adaln].weight, x, xq, "qronos", 3)
    assert (np.array(solved[adaln].codes) != expected).mean() < 1e-3
    assert (codes(linears(model)[adaln].weight, x, None, "gptq", 3) != expected).mean() > 0.01


def test_text_and_last_layer(model, conditions):
    rng = np.random.default_rng(0)
    tokens = mx.array(rng.standard_normal((4, 7, CONFIG.token_level_text_embed_dim)).astype(np.float32))
    method = METHODS["gptq-sequential"](damping=0.1)
    of_text, _ = text_layer(model, {TEXT: (method, Spec(4))}, tokens)
    expected = codes(model.context_embedder.weight, tokens.reshape(28, -1), None, "gptq", 4)
    assert (np.array(of_text[TEXT].codes) != expected).mean() < 1e-3

    image = mx.array(rng.standard_normal((ROWS, 16, CONFIG.hidden_size)).astype(np.float32))
    noisy = image + 0.1
    condition = model.condition(*conditions)
    spy = []
    layer = model.final_layer.linear

    class Spy(nn.Module):
        def __call__(self, x):
            spy.append(x)
            return layer(x)

    chunks = list(mx.split(model.final_layer.adaLN_modulation(condition)[:, None], 2, axis=-1))
    with swapped(model, {LAST: Spy()}):
        model.final_layer(noisy, chunks)
    solved, _ = last_layer(
        model, {LAST: (method, Spec(4))}, {}, lambda: [(image, condition)], lambda: [(noisy, condition)]
    )
    expected = codes(layer.weight, spy[0].reshape(-1, CONFIG.hidden_size), None, "gptq", 4)
    assert (np.array(solved[LAST].codes) != expected).mean() < 1e-3
    assert last_layer(model, {}, {}, list, list) == ({}, {})


def test_rounding_needs_no_data_and_block_methods_are_refused(model, conditions):
    solved, reports = condition_layers(model, {EMBEDDERS[0]: (RTN(), Spec(8))}, *conditions)
    assert 0 < reports[EMBEDDERS[0]]["weight_error"] < 0.01 and solved[EMBEDDERS[0]].spec.bits == 8
    with pytest.raises(UserError, match="context_embedder: got method AdaRound, which works on the layers"):
        check({TEXT: (AdaRound(), Spec(4))})
