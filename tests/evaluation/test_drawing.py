"""Pictures are drawn once, kept batch by batch, and read without holding them all."""

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.evaluation import draw, float_variant, read_drawn
from ditq.sampling.generate import generate, settings_for
from tests.evaluation.toy import PROMPTS, SEEDS, Toy, run, shrunk


def test_finished_batches_are_kept_and_the_rest_is_drawn_again_alike(tmp_path):
    model, opened, counted = Toy(), [], []
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


def test_drawn_pictures_are_read_batch_by_batch_or_by_number(tmp_path):
    model = Toy()
    wanted = list(generate(model, PROMPTS, SEEDS, settings_for(model), 2))
    drawn = draw(model, float_variant(model), PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    batches = list(drawn.batches())
    assert [batch.prompts for batch in batches] == [PROMPTS[:2], PROMPTS[2:]]
    assert np.array_equal(np.concatenate([batch.pictures for batch in batches]), wanted)
    assert np.array_equal(drawn.pictures([2, 0]), [wanted[2], wanted[0]])
    again = read_drawn(tmp_path, "float")
    assert again == drawn and len(again) == 3 and again.peak_memory == drawn.peak_memory
    (tmp_path / "float" / "00000.npz").unlink()
    assert np.array_equal(again.pictures([2]), wanted[2:])
    with pytest.raises(UserError, match="no such file"):
        read_drawn(tmp_path, "W4")


def test_time_per_step_is_the_median_without_the_first_step(tmp_path, monkeypatch):
    ticks = iter([0.0, 10.0, 11.0, 14.0, *(20.0, 40.0, 40.5, 41.5)])
    monkeypatch.setattr("ditq.evaluation.drawing.time.perf_counter", lambda: next(ticks))
    model = Toy()
    drawn = draw(model, float_variant(model), PROMPTS, SEEDS, settings_for(model), tmp_path, 2)
    assert drawn.seconds_per_step == np.median([0.5, 1.5, 0.5, 1.0])
