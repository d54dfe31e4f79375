"""Quantized variants: what stands for them, and what sentences say of them."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import ActivationTable
from ditq.core import affine
from ditq.core.spec import Spec
from ditq.diagnostics.names import block_linears
from ditq.evaluation import (
    compared,
    evaluate,
    fingerprint_of,
    float_variant,
    floor_told,
    made_variant,
    quantized_variant,
    rounded,
    size_of,
    size_on,
    smaller,
)
from ditq.nn import ActivationGrid
from ditq.sampling.generate import settings_for
from tests.evaluation.test_drawing import LAYER, PROMPTS, SEEDS, Kept


def table_of(model, smooth=None) -> ActivationTable:
    """Wide 8-bit grids for every layer, so that they hardly show; one layer smoothed."""

    def grid(path):
        factors = smooth if path == LAYER else None
        one = mx.ones((1,))
        return ActivationGrid(0.05 * one, -128 * one, 127 * one, smooth=factors)

    paths = block_linears(model.transformer())
    return ActivationTable(np.array([500.0], np.float32), {path: grid(path) for path in paths})


def test_rounding_is_that_of_the_smoothed_weight():
    model = Kept()
    layer = model.transformer().multimodal_transformer_blocks[0].image_transformer_block.mlp.fc2
    smooth = mx.array(np.random.default_rng(0).uniform(0.5, 2, layer.weight.shape[1]).astype(np.float32))
    checkpoint = rounded(model, Spec(4), table_of(model, smooth), search=False)
    assert set(checkpoint.weights) == set(block_linears(model.transformer()))
    codes, scale, _ = affine.round_to_nearest(layer.weight * smooth, Spec(4))
    weight = checkpoint.weights[LAYER]
    assert mx.array_equal(weight.codes, codes).item() and mx.array_equal(weight.scale, scale).item()
    assert mx.array_equal(weight.smooth, smooth).item()
    other = next(path for path in checkpoint.weights if path != LAYER)
    assert checkpoint.weights[other].smooth is None


def test_fingerprint_sees_every_part():
    model = Kept()
    one = rounded(model, Spec(4), table_of(model))
    assert fingerprint_of(one) == fingerprint_of(rounded(model, Spec(4), table_of(model)))
    weight = one.weights[LAYER]
    moved = replace(one, weights={**one.weights, LAYER: replace(weight, codes=mx.maximum(weight.codes, -7))})
    table = one.activations
    grid = replace(table.grids[LAYER], scale=table.grids[LAYER].scale * 2)
    regridded = replace(one, activations=replace(table, grids={**table.grids, LAYER: grid}))
    prints = [fingerprint_of(c) for c in (one, moved, regridded, replace(one, activations=None))]
    assert len(set(prints)) == 4


def test_more_bits_are_nearer_and_the_sentences_say_so(tmp_path):
    model = Kept()
    variants = [
        float_variant(model),
        quantized_variant("W3", model, rounded(model, Spec(3)), activations=False),
        quantized_variant("W8", model, rounded(model, Spec(8)), activations=False),
        quantized_variant("W8A8", model, rounded(model, Spec(8), table_of(model))),
    ]
    report = evaluate(model, variants, PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    median = {entry.name: entry.spread("psnr").median for entry in report.variants}
    assert median["W3"] < median["W8A8"] < median["W8"]
    gain = report.gain("W8", "W3").spread.median
    told = compared(report, "W8", "W3", "Eight bits", "three")
    nearer = f"Eight bits is {gain:.1f} dB nearer to the float pictures than three"
    assert told == f"{nearer} (median of 3 pictures; nearer on 3)."
    assert "farther" in compared(report, "W3", "W8", "W3", "W8")
    assert "as near" in compared(report, "W8", "W8", "W8", "itself")
    share = report.variant("W8").size.bytes / report.reference.size.bytes
    assert f"{share:.0%}" in smaller(report, "W8")
    assert f"{report.floor.spread('psnr').median:.1f} dB" in floor_told(report)
    assert report.variant("W3").size.bits_per_weight == pytest.approx(3, abs=1)


@pytest.mark.parametrize("spec", [Spec(4), Spec(3, symmetric=False), Spec(4, group_size=32)])
def test_size_is_known_before_anything_is_quantized(spec):
    model = Kept()
    assert size_on(model, spec) == size_of(model, rounded(model, spec).weights)


def test_a_checkpoint_is_made_when_it_is_drawn_with(tmp_path):
    model, made = Kept(), []

    def make():
        made.append(1)
        return rounded(model, Spec(8))

    variant = made_variant("W8", make, "rounding", size_on(model, Spec(8)), activations=False)
    assert not made
    one = evaluate(model, [float_variant(model), variant], PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    other = evaluate(model, [float_variant(model), variant], PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    assert made == [1] and one.variants[0].scores == other.variants[0].scores
