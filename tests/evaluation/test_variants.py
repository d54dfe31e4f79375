"""Quantized variants: their sizes, what stands for them, and that more bits are nearer."""

from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint import write_folder
from ditq.core import affine
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.evaluation import (
    evaluate,
    fingerprint_of,
    float_variant,
    lazy_variant,
    quantized_variant,
    rounded,
    size_of,
    size_on,
)
from ditq.sampling.generate import settings_for
from tests.evaluation.toy import LAYER, PROMPTS, SEEDS, ConvToy, Toy


def block_layers(model) -> list[str]:
    return model.network().anatomy.paths("block")


def table_of(model, smooth=None, of=LAYER) -> ActivationTable:
    """Wide 8-bit grids for every layer, so that they hardly show; one layer smoothed."""
    one, timesteps = mx.ones((1,)), np.array([500.0], np.float32)

    def grid(path):
        return TimestepGrid(
            timesteps, GridRows(0.05 * one, -128 * one, 127 * one), smooth if path == of else None
        )

    return ActivationTable(timesteps, {path: grid(path) for path in block_layers(model)})


def test_rounding_is_that_of_the_smoothed_weight():
    model = Toy()
    layer = model.network().multimodal_transformer_blocks[0].image_transformer_block.mlp.fc2
    smooth = mx.array(np.random.default_rng(0).uniform(0.5, 2, layer.weight.shape[1]).astype(np.float32))
    checkpoint = rounded(model, Spec(4), table_of(model, smooth), search=False)
    assert list(checkpoint.weights) == block_layers(model) and LAYER in checkpoint.weights
    assert not any("adaLN" in path or "embedder" in path for path in checkpoint.weights)
    codes, scale, _ = affine.round_to_nearest(layer.weight * smooth, Spec(4))
    weight = checkpoint.weights[LAYER]
    assert mx.array_equal(weight.codes, codes).item() and mx.array_equal(weight.scale, scale).item()
    assert mx.array_equal(weight.smooth, smooth).item()
    other = next(path for path in checkpoint.weights if path != LAYER)
    assert checkpoint.weights[other].smooth is None


def test_convolutions_are_rounded_as_their_unfolded_matrix():
    model, path = ConvToy(), "parts.0.conv"
    smooth = np.random.default_rng(0).uniform(0.5, 2, 32).astype(np.float32)
    checkpoint = rounded(model, Spec(4, group_size=32), table_of(model, mx.array(smooth), path), search=False)
    assert set(checkpoint.weights) == {"parts.0.conv", "parts.0.mix", "parts.1.conv"}
    kernel = np.array(capture.layers(model.network())[path].weight)
    matrix = np.stack([(kernel[out] * smooth).reshape(-1) for out in range(32)])
    codes, scale, _ = affine.round_to_nearest(mx.array(matrix), Spec(4, group_size=32))
    weight = checkpoint.weights[path]
    assert weight.shape == (32, 9 * 32) and weight.scale.shape == (32, 9)
    assert mx.array_equal(weight.codes, codes).item() and mx.array_equal(weight.scale, scale).item()


def test_groups_that_cross_a_kernels_pixels_are_refused():
    for what in (
        lambda: size_on(ConvToy(), Spec(4, group_size=64)),
        lambda: rounded(ConvToy(), Spec(4, group_size=64)),
    ):
        with pytest.raises(
            UserError, match=r"parts.0.conv: in_features 32 is not divisible: got group size 64"
        ):
            what()


@dataclass(frozen=True, eq=False)
class Ramp:
    """A grid whose step size is a function of the timestep."""

    slope: float
    smooth: mx.array | None = None

    def at(self, timesteps):
        scale = mx.array(1 + self.slope * np.maximum(np.asarray(timesteps) - 500, 0))
        one = mx.ones(scale.shape)
        return GridRows(scale, -128 * one, 127 * one)


def test_fingerprint_sees_every_part():
    model = Toy()
    one = rounded(model, Spec(4), table_of(model), search=False)
    assert fingerprint_of(one) == fingerprint_of(rounded(model, Spec(4), table_of(model), search=False))
    weight = one.weights[LAYER]
    moved = replace(one, weights={**one.weights, LAYER: replace(weight, codes=mx.zeros_like(weight.codes))})
    table = one.activations

    def with_grid(grid):
        return replace(one, activations=replace(table, grids={**table.grids, LAYER: grid}))

    grid = table.grids[LAYER]
    regridded = with_grid(replace(grid, rows=replace(grid.rows, scale=grid.rows.scale * 2)))
    functions = [with_grid(Ramp(slope)) for slope in (0.0, 0.001)]  # alike at the table's one timestep
    every = (one, moved, regridded, replace(one, activations=None), *functions)
    assert len({fingerprint_of(checkpoint) for checkpoint in every}) == 6


def test_more_bits_are_nearer(tmp_path):
    model = Toy()
    variants = [
        float_variant(model),
        quantized_variant("W3", model, rounded(model, Spec(3), search=False), activations=False),
        quantized_variant("W8", model, rounded(model, Spec(8), search=False), activations=False),
        quantized_variant("W8A8", model, rounded(model, Spec(8), table_of(model), search=False)),
    ]
    report = evaluate(model, variants, PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    median = {entry.name: entry.spread("latent_error").median for entry in report.variants}
    assert median["W3"] > median["W8A8"] > median["W8"]
    assert report.gain("W8", "W3").wins == 3
    assert report.variant("W3").size.bits_per_weight == pytest.approx(3, abs=1)


@pytest.mark.parametrize("spec", [Spec(4), Spec(3, symmetric=False), Spec(4, group_size=32)])
@pytest.mark.parametrize("kind", [Toy, ConvToy])
def test_size_is_known_before_anything_is_quantized(spec, kind):
    model = kind()
    told, found = size_on(model, spec), size_of(model, rounded(model, spec, search=False))
    assert told.bits_per_weight == found.bits_per_weight
    assert told.bytes == pytest.approx(found.bytes, abs=100)  # facts of the method in config.json


@pytest.mark.parametrize("activations", [False, True])
def test_size_is_that_of_the_files(tmp_path, activations):
    model = Toy()
    parts = rounded(model, Spec(4), table_of(model), search=False)
    size = quantized_variant("W4", model, parts, activations).size
    stored = parts if activations else replace(parts, activations=None)
    files = write_folder(tmp_path, model.network(), stored)
    assert size.bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.002)
    whole = {name: array.astype(mx.float16) for name, array in tree_flatten(model.network().parameters())}
    mx.save_safetensors(str(tmp_path / "float.safetensors"), whole)
    file = tmp_path / "float.safetensors"
    assert float_variant(model).size.bytes == pytest.approx(file.stat().st_size, abs=50)
    assert float_variant(model).size.bits_per_weight == 16


def test_layers_that_no_folder_holds_count_a_byte_a_code():
    model = Toy()
    seven, eight = (size_of(model, rounded(model, Spec(bits), search=False)) for bits in (7, 8))
    assert seven.bits_per_weight == pytest.approx(eight.bits_per_weight, rel=0.1)
    assert seven.bytes == pytest.approx(eight.bytes, rel=0.1)


def test_a_checkpoint_is_made_when_it_is_drawn_with(tmp_path):
    model, made = Toy(), []

    def make():
        made.append(1)
        return rounded(model, Spec(8), search=False)

    variant = lazy_variant("W8", make, "rounding", size_on(model, Spec(8)), activations=False)
    assert not made
    one = evaluate(model, [float_variant(model), variant], PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    other = evaluate(model, [float_variant(model), variant], PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    assert made == [1] and one.variants[0].scores == other.variants[0].scores
