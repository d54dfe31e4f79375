"""Whether pictures show what was asked for, counted against a slow count, and intervals by simulation."""

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.evaluation.attributes import (
    EVERYTHING,
    PictureJudge,
    attribute_scores,
    attribute_sentence,
    attribute_table,
    judge_of,
    wilson,
)
from ditq.evaluation.drawing import draw
from ditq.evaluation.variants import Variant, float_variant
from ditq.models import load
from ditq.sampling.generate import settings_for
from tests.evaluation.toy import Toy


def test_wilson_is_its_closed_form():
    """The two roots of (p - hits / n)^2 = z^2 p (1 - p) / n."""
    z = 1.959963984540054
    for hits, count in ((0, 7), (3, 7), (7, 7), (93, 96), (1, 1)):
        part = hits / count
        roots = np.roots([1 + z * z / count, -(2 * part + z * z / count), part * part])
        assert wilson(hits, count) == pytest.approx(sorted(roots.real), abs=1e-9)
    with pytest.raises(UserError, match="at least one trial"):
        wilson(0, 0)


def test_wilson_covers_as_often_as_it_says():
    rng, covered = np.random.default_rng(0), []
    for part in rng.uniform(0.1, 0.95, 4000):
        low, high = wilson(int(rng.binomial(60, part)), 60)
        covered.append(low <= part <= high)
    assert 0.93 < np.mean(covered) < 0.97


class Colours:
    """Two attributes of the toy's pictures: the parity of the sums of two channels."""

    attributes, side, fingerprint = ("red", "green"), 16, "1"

    def asked(self, prompts):
        if any(prompt == "nothing" for prompt in prompts):
            raise UserError("the prompt", got="nothing", expected="something")
        return np.array([[len(prompt) % 2, -1 if prompt.startswith("t") else 0] for prompt in prompts])

    def see(self, pictures):
        sums = pictures.astype(np.int64).sum((1, 2))[:, :2] % 2
        return type("Seen", (), {"labels": sums})


def test_counts_are_those_of_a_loop(tmp_path):
    model, judge = Toy(), Colours()
    settings = settings_for(model, steps=2)
    prompts, seeds = ["one", "two", "nothing", "four", "eleven", "three"], [1, 2, 3, 4, 5, 6]
    one = float_variant(model)
    moved = Variant("moved", one.opened, "moved", one.size)
    drawn = {
        name: draw(model, variant, prompts, own, settings, tmp_path, 2)
        for name, variant, own in (("float", one, seeds), ("moved", moved, [seed + 9 for seed in seeds]))
    }
    scores = attribute_scores(judge, prompts, tmp_path, "float", ["float", "moved"])
    found = {(score.variant, score.attribute): score for score in scores}
    shown = {name: judge.see(own.pictures(range(6))).labels for name, own in drawn.items()}
    for at, attribute in enumerate(judge.attributes):
        rows = [
            (shown["moved"][i, at] == want, shown["float"][i, at] == want)
            for i, prompt in enumerate(prompts)
            if prompt != "nothing" and (want := judge.asked([prompt])[0, at]) >= 0
        ]
        score = found["moved", attribute]
        assert (score.asked, score.shown) == (len(rows), sum(bool(hit) for hit, _ in rows))
        assert score.lost == sum(bool(other and not hit) for hit, other in rows)
        assert score.gained == sum(bool(hit and not other) for hit, other in rows)
    whole = found["moved", EVERYTHING]
    both = [
        all(want < 0 or shown["moved"][i, at] == want for at, want in enumerate(judge.asked([prompt])[0]))
        for i, prompt in enumerate(prompts)
        if prompt != "nothing"
    ]
    assert (whole.asked, whole.shown) == (5, sum(both)) and found["float", EVERYTHING].lost == 0
    table = attribute_table(scores)
    assert [row[0] for row in table] == ["variant", "float", "moved"] and len(table[0]) == 6
    assert f"in {whole.shown} of 5 of its pictures" in attribute_sentence(scores, "moved", "float")


def test_models_without_a_classifier_and_other_sizes_are_not_judged():
    model = load("mini")
    assert isinstance(model.judge, PictureJudge) and judge_of(model, settings_for(model)) is model.judge
    assert judge_of(model, settings_for(model, 64, 64)) is None
    assert judge_of(Toy(), settings_for(Toy())) is None
