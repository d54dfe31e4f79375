"""Same-seed comparisons: what is drawn, kept and drawn again, and what the report says of it."""

from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.capture import linears, swapped
from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.evaluation import (
    FLOOR,
    EvalReport,
    Spread,
    Variant,
    evaluate,
    float_variant,
    markdown,
    read_report,
    rows,
    size_of,
    write_report,
)
from ditq.evaluation.metrics import psnr
from ditq.sampling.generate import generate, settings_for
from tests.sampling.test_generate import Small

PROMPTS, SEEDS = ["one", "two", "three"], [4, 5, 6]
LAYER = "multimodal_transformer_blocks.0.image_transformer_block.mlp.fc2"


class Kept(Small):
    """Small with one transformer, as every real model keeps its own."""

    def __init__(self):
        super().__init__()
        self.kept = super().transformer()

    def transformer(self):
        return self.kept


def shrunk(model, factor, opened=None):
    """A variant whose layer gives `factor` of what it should."""

    @contextmanager
    def opening(encoded):
        if opened is not None:
            opened.append(factor)
        layer = linears(encoded.transformer())[LAYER]
        other = nn.Linear(*reversed(layer.weight.shape))
        other.weight, other.bias = factor * layer.weight, layer.bias
        with swapped(encoded.transformer(), {LAYER: other}):
            yield encoded

    return Variant(f"times {factor}", opening, f"times {factor}", size_of(model, {}))


def run(model, folder, variants=(), **kwargs) -> EvalReport:
    every = [float_variant(model), *variants]
    return evaluate(model, every, PROMPTS, SEEDS, settings_for(model), folder, batch_size=2, **kwargs)


def test_scores_are_those_of_the_pictures_drawn_apart(tmp_path):
    model = Kept()
    report = run(model, tmp_path, [shrunk(model, 0.5), shrunk(model, 1.0)])
    reference = list(generate(model, PROMPTS, SEEDS, settings_for(model), 2))
    half = shrunk(model, 0.5)
    with half.opened(model) as opened:
        pictures = list(generate(opened, PROMPTS, SEEDS, settings_for(model), 2))
    wanted = [psnr(one, two) for one, two in zip(reference, pictures, strict=True)]
    np.testing.assert_allclose(report.variant("times 0.5").scores["psnr"], wanted)
    assert report.variant("times 1.0").scores["latent_error"] == [0, 0, 0]
    assert report.reference.scores["latent_error"] == [0, 0, 0]
    assert report.gain("times 1.0", "times 0.5").wins == 3
    other_seeds = list(generate(model, PROMPTS, [s + 1_000_000 for s in SEEDS], settings_for(model), 2))
    floor = [psnr(one, two) for one, two in zip(reference, other_seeds, strict=True)]
    np.testing.assert_allclose(report.variant(FLOOR).scores["psnr"], floor)


def test_prompts_are_encoded_once_for_all_variants(tmp_path):
    model = Kept()
    run(model, tmp_path, [shrunk(model, 0.5)])
    assert [what for what in model.loads if what[0] == "encode"] == [("encode", 4)]


def test_finished_batches_are_kept_and_the_rest_is_drawn_again_alike(tmp_path):
    model, opened, counted = Kept(), [], []
    first = run(model, tmp_path, [shrunk(model, 0.5, opened)])
    lost = tmp_path / "times_0.5" / "00002.npz"
    before = lost.read_bytes()
    second = run(model, tmp_path, [shrunk(model, 0.5, opened)], on_picture=counted.append)
    assert opened == [0.5] and sum(counted) == 9
    lost.unlink()
    third = run(model, tmp_path, [shrunk(model, 0.5, opened)])
    assert opened == [0.5, 0.5]
    assert first.variants[0].scores == second.variants[0].scores == third.variants[0].scores
    assert len(lost.read_bytes()) == len(before)


def test_a_folder_of_another_evaluation_is_refused(tmp_path):
    model = Kept()
    run(model, tmp_path)
    other = settings_for(model, guidance=2.0)
    with pytest.raises(UserError, match="settings"):
        evaluate(model, [float_variant(model)], PROMPTS, SEEDS, other, tmp_path, 2)
    with pytest.raises(UserError, match="a name twice"):
        run(model, tmp_path, [shrunk(model, 0.5), shrunk(model, 0.5)])
    with pytest.raises(UserError, match="3 prompts, 2 seeds"):
        evaluate(model, [float_variant(model)], PROMPTS, [1, 2], settings_for(model), tmp_path / "new")


def test_report_survives_its_file_and_its_table_names_every_variant(tmp_path):
    model = Kept()
    report = run(model, tmp_path, [shrunk(model, 0.5)])
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report
    text = markdown(rows(report))
    assert "| times 0.5 |" in text and f"| {FLOOR} |" in text and "PSNR, dB" in text
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(UserError, match="expected ditq.evaluation"):
        read_report(tmp_path / "other.json")


def test_spread_is_numpys():
    values = [3.0, 1.0, 2.0, 10.0]
    spread = Spread.of(values)
    assert (spread.low, spread.median, spread.high) == (1.75, 2.5, 4.75)
    assert spread.mean == 4.0 and spread.std == pytest.approx(np.std(values, ddof=1))
    assert Spread.of([5.0]).std == 0.0


def test_size_counts_codes_scales_and_the_rest_in_sixteen_bits():
    model = Kept()
    weight = linears(model.kept)[LAYER].weight
    spec = Spec(4)
    codes, scale, zero = affine.round_to_nearest(weight, spec)
    quantized = {LAYER: QuantizedWeight(codes, scale, zero, spec)}
    whole, small = size_of(model, {}), size_of(model, quantized)
    assert whole.bits_per_weight == 16
    rows_of_weight = weight.shape[0]
    assert small.bits_per_weight == pytest.approx(4 + 32 * rows_of_weight / weight.size)
    assert whole.bytes - small.bytes == weight.size * 2 - (weight.size // 2 + rows_of_weight * 4)
    assert mx.all(codes <= 7).item()
