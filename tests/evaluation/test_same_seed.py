"""Same-seed comparisons: scores are those of the pictures, computed batch by batch."""

import weakref

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.evaluation import FLOOR, METRICS, PairMetric, evaluate, float_variant, markdown, rows
from ditq.evaluation.metrics import psnr
from ditq.sampling.generate import generate, settings_for
from tests.evaluation.toy import PROMPTS, SEEDS, Toy, run, shrunk


def test_scores_are_those_of_the_pictures_drawn_apart(tmp_path):
    model = Toy()
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
    model = Toy()
    run(model, tmp_path, [shrunk(model, 0.5)])
    assert model.encoded == [4]


def test_a_folder_of_another_evaluation_is_refused(tmp_path):
    model = Toy()
    run(model, tmp_path)
    other = settings_for(model, guidance=2.0)
    with pytest.raises(UserError, match="settings"):
        evaluate(model, [float_variant(model)], PROMPTS, SEEDS, other, tmp_path, 2)
    with pytest.raises(UserError, match="a name twice"):
        run(model, tmp_path, [shrunk(model, 0.5), shrunk(model, 0.5)])
    with pytest.raises(UserError, match="3 prompts, 2 seeds"):
        evaluate(model, [float_variant(model)], PROMPTS, [1, 2], settings_for(model), tmp_path / "new")
    with pytest.raises(UserError, match="metrics: got sharpness"):
        run(model, tmp_path / "new", metrics=["sharpness"])
    assert not (tmp_path / "new").exists()


class Brightness(PairMetric):
    """An invented metric: how much darker each picture is than its reference; it watches what lies in memory."""

    name, title, unit, better = "darkness", "darkness", "levels", "lower"
    built = 0

    def __init__(self):
        super().__init__()
        type(self).built += 1
        self.seen, self.most = [], 0

    def scores(self, reference, candidate):
        self.seen += [weakref.ref(reference.pictures), weakref.ref(candidate.pictures)]
        self.most = max(self.most, sum(len(a) for ref in self.seen if (a := ref()) is not None))
        assert self.most <= 2 * 2 * 2, "more than two batches of two pictures of two variants"
        return (reference.pictures.mean(axis=(1, 2, 3)) - candidate.pictures.mean(axis=(1, 2, 3))).tolist()


class SetDistance:
    """An invented metric of two sets: the distance of their mean pictures, one value for all."""

    name, title, unit, better, capped = "set", "distance of sets", "", "lower", False

    def begin(self):
        self.sums, self.count = [0.0, 0.0], 0

    def add(self, reference, candidate):
        self.count += len(reference)
        for i, drawn in enumerate((reference, candidate)):
            self.sums[i] += drawn.pictures.astype(float).sum(axis=0)

    def value(self):
        one, other = (total / self.count for total in self.sums)
        return np.array([float(np.abs(one - other).mean())])


def test_invented_metrics_need_a_line_in_the_table_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(METRICS, "darkness", Brightness)
    monkeypatch.setitem(METRICS, "set", SetDistance)
    model, prompts = Toy(), [f"prompt {i}" for i in range(8)]
    run(model, tmp_path / "without", [shrunk(model, 0.5)])
    assert Brightness.built == 0
    variants, asked = [float_variant(model), shrunk(model, 0.5)], ["darkness", "set", "psnr"]
    settings = settings_for(model, steps=1, height=16, width=16)
    report = evaluate(model, variants, prompts, list(range(8)), settings, tmp_path / "with", 2, asked)
    assert Brightness.built == 1 and list(report.units) == asked
    drawn = {name: [] for name in ("float", "times 0.5")}
    for variant in variants:
        with variant.opened(model) as opened:
            drawn[variant.name] = np.stack(list(generate(opened, prompts, range(8), settings, 2))).astype(
                float
            )
    means = {name: pictures.mean(axis=(1, 2, 3)) for name, pictures in drawn.items()}
    half = report.variant("times 0.5")
    np.testing.assert_allclose(half.scores["darkness"], means["float"] - means["times 0.5"])
    distance = np.abs(drawn["float"].mean(axis=0) - drawn["times 0.5"].mean(axis=0)).mean()
    np.testing.assert_allclose(half.scores["set"], [distance])
    gain = report.gain("float", "times 0.5", "set")
    assert gain.wins == gain.pictures == 1 and gain.spread.median == pytest.approx(distance)
    table = markdown(rows(report))
    assert "darkness, levels" in table and "| distance of sets |" in table
