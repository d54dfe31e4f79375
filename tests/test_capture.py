"""Layers by path, watched and replaced, and convolutions as matrices."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq import capture
from ditq.capture import layers, swapped
from ditq.core.errors import DitqError
from ditq.models.base import Conditioning
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


def test_sd3_medium_has_340_linears_and_a_convolution_in_natural_order():
    paths = list(layers(MMDiT(SD3_MEDIUM)))
    assert len(paths) == 341 and paths[-1] == "y_embedder.mlp.layers.2" and "x_embedder.proj" in paths
    blocks = [int(path.split(".")[1]) for path in paths if path.startswith("multimodal_transformer_blocks")]
    assert blocks == sorted(blocks)
    assert "multimodal_transformer_blocks.23.text_transformer_block.attn.k_proj" in paths
    assert "multimodal_transformer_blocks.23.text_transformer_block.mlp.fc1" not in paths


def test_swapped_layers_are_called_and_everything_comes_back():
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    before = dict(tree_flatten(mmdit.parameters()))
    found = layers(mmdit)
    latents, text = mx.random.normal((1, 8, 8, 16)), mx.random.normal((1, 7, 40))
    conditioning = Conditioning(text, mx.random.normal((1, 48)))
    inputs = mmdit.prepare(conditioning, mx.array([500.0])).at(0)
    wanted = mmdit(latents, **inputs)
    recorders = {path: Recorder(layer) for path, layer in found.items()}
    with swapped(mmdit, recorders) as same:
        assert same is mmdit
        assert mx.array_equal(mmdit(latents, **inputs), wanted)
        mmdit.prepare(conditioning, mx.array([500.0]))
    assert all(len(recorder.seen) == 1 for recorder in recorders.values())
    assert layers(mmdit) == found
    after = dict(tree_flatten(mmdit.parameters()))
    assert after.keys() == before.keys() and all(after[key] is before[key] for key in before)


def test_modules_come_back_after_an_error():
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    path = "t_embedder.mlp.layers.2"
    layer = layers(mmdit)[path]
    with pytest.raises(KeyboardInterrupt), swapped(mmdit, {path: nn.Identity()}):
        raise KeyboardInterrupt
    assert layers(mmdit)[path] is layer


@pytest.mark.parametrize("path", ["nowhere", "t_embedder.mlp.layers.9", "context_embedder.weights", ""])
def test_a_wrong_path_is_named_before_anything_is_replaced(path):
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    found = layers(mmdit)
    with (
        pytest.raises(DitqError, match="no such module in MMDiT"),
        swapped(mmdit, {"context_embedder": nn.Identity(), path: nn.Identity()}),
    ):
        pass
    assert layers(mmdit) == found


def unfolded(x: np.ndarray, kernel: tuple[int, int], stride: int, padding: int) -> np.ndarray:
    """The patches of a padded picture, pixel by pixel."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    height, width = ((x.shape[i + 1] - kernel[i]) // stride + 1 for i in range(2))
    rows = np.zeros((len(x), height, width, kernel[0] * kernel[1] * x.shape[-1]), x.dtype)
    for b, i, j in np.ndindex(len(x), height, width):
        top, left = i * stride, j * stride
        rows[b, i, j] = x[b, top : top + kernel[0], left : left + kernel[1]].ravel()
    return rows


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((1, 1), 1, 0), ((3, 3), 1, 1), ((3, 3), 2, 1), ((2, 2), 2, 0), ((3, 1), 1, 0)],
)
def test_a_convolution_is_its_matrix_times_its_patches(kernel, stride, padding):
    layer = nn.Conv2d(6, 5, kernel, stride, padding)
    x = mx.random.normal((2, 9, 8, 6))
    patches = capture.patches(layer, x)
    assert np.array_equal(np.array(patches), unfolded(np.array(x), kernel, stride, padding))
    product = patches @ capture.matrix(layer).T + layer.bias
    assert mx.allclose(product, layer(x), atol=1e-5)
    assert mx.allclose(capture.apply(layer, capture.matrix(layer), layer.bias, x), layer(x), atol=1e-6)
    assert capture.channels(layer) == 6


def test_a_layer_with_another_weight_keeps_its_bias_and_leaves_the_first_alone():
    for layer, x in (
        (nn.Conv2d(3, 4, 3, padding=1), mx.ones((1, 5, 5, 3))),
        (nn.Linear(3, 4), mx.ones((2, 3))),
    ):
        before = layer(x)
        doubled = capture.with_weight(layer, 2 * capture.matrix(layer))
        assert mx.allclose(doubled(x) - layer.bias, 2 * (before - layer.bias), atol=1e-5)
        assert mx.array_equal(layer(x), before)


def test_a_dilated_convolution_is_refused():
    with pytest.raises(DitqError, match="dilation 2"):
        capture.patches(nn.Conv2d(3, 4, 3, dilation=2), mx.ones((1, 9, 9, 3)))


def test_traced_layers_show_their_inputs_in_order():
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    seen = []
    with capture.traced(
        mmdit, ["y_embedder.mlp.layers.0", "y_embedder.mlp.layers.2"], lambda *call: seen.append(call)
    ):
        mmdit.y_embedder(mx.ones((2, 48)))
    assert [path for path, _ in seen] == ["y_embedder.mlp.layers.0", "y_embedder.mlp.layers.2"]
    assert [x.shape for _, x in seen] == [(2, 48), (2, 64)]


def test_modules_that_share_parameters_are_replaced_apart():
    mmdit = MMDiT(MMDiTConfig(**SMALL))
    other = capture.sharing(mmdit)
    capture.replace(other, {"multimodal_transformer_blocks.0.image_transformer_block.mlp.fc2": nn.Identity()})
    assert len(layers(other)) == len(layers(mmdit)) - 1
    assert other.context_embedder.weight is mmdit.context_embedder.weight
