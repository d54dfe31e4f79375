"""Layers by path, and replacements that always leave."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from ditq.capture import linears, swapped
from ditq.core.errors import DitqError
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import SD3_MEDIUM, MMDiTConfig
from tests.models.families import SMALL


class Recorder(nn.Module):
    """A linear layer that keeps its input."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.linear, self.seen = linear, []

    def __call__(self, x):
        self.seen.append(x)
        return self.linear(x)


def test_sd3_medium_has_340_linears_in_natural_order():
    paths = list(linears(MMDiT(SD3_MEDIUM)))
    assert len(paths) == 340
    blocks = [int(path.split(".")[1]) for path in paths if path.startswith("multimodal_transformer_blocks")]
    assert blocks == sorted(blocks)
    assert "multimodal_transformer_blocks.23.text_transformer_block.attn.k_proj" in paths
    assert "multimodal_transformer_blocks.23.text_transformer_block.mlp.fc1" not in paths


def test_swapped_layers_are_called_and_everything_comes_back():
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    before = dict(tree_flatten(mmdit.parameters()))
    layers = linears(mmdit)
    latents, text = mx.random.normal((1, 8, 8, 16)), mx.random.normal((1, 7, 40))
    modulation = mmdit.modulation(mx.random.normal((1, 48)), mx.array([500.0]))[0]
    wanted = mmdit(latents, text, modulation)
    recorders = {path: Recorder(layer) for path, layer in layers.items()}
    with swapped(mmdit, recorders) as same:
        assert same is mmdit
        assert mx.array_equal(mmdit(latents, text, modulation), wanted)
        mmdit.modulation(mx.zeros((1, 48)), mx.array([500.0]))
    assert all(len(recorder.seen) == 1 for recorder in recorders.values())
    assert linears(mmdit) == layers
    after = dict(tree_flatten(mmdit.parameters()))
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)


def test_modules_come_back_after_an_error():
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    path = "t_embedder.mlp.layers.2"
    layer = linears(mmdit)[path]
    with pytest.raises(KeyboardInterrupt), swapped(mmdit, {path: nn.Identity()}):
        raise KeyboardInterrupt
    assert linears(mmdit)[path] is layer


@pytest.mark.parametrize("path", ["nowhere", "t_embedder.mlp.layers.9", "context_embedder.weights", ""])
def test_a_wrong_path_is_named_before_anything_is_replaced(path):
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    layers = linears(mmdit)
    with (
        pytest.raises(DitqError, match="no such module in MMDiT"),
        swapped(mmdit, {"context_embedder": nn.Identity(), path: nn.Identity()}),
    ):
        pass
    assert linears(mmdit) == layers
