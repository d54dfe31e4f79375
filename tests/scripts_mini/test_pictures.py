"""Decoder and judge of mini's pictures: both train, resume and report on pictures that they were not shown."""

import random

import numpy as np
import pytest

from mini import data, nets, pictures, words

SHAPE = '<path fill="#F8312F" d="M6 6h20v20h-20z"/>'


@pytest.fixture(scope="module")
def rendered():
    bodies = dict.fromkeys(words.OBJECTS.values(), SHAPE)
    return np.stack([data.draw(item, bodies, random.Random(0)) for item in data.pictures(160)])


@pytest.fixture(autouse=True)
def _few_are_judged(monkeypatch):
    monkeypatch.setattr(pictures, "_JUDGED", 96)


def test_decoder_is_trained_and_measured(tmp_path, rendered):
    scores = pictures.train_decoder(tmp_path, rendered, nets.Latents.fit(rendered), minutes=0.02)
    assert scores["linear_psnr"] > 25 and scores["decoder_psnr"] > 3
    assert (tmp_path / "decoder.pt").exists() and (tmp_path / "decoder.png").exists()


def test_classifier_is_trained_and_resumes(tmp_path, rendered):
    code = nets.Latents.fit(rendered)
    for _ in range(2):
        scores = pictures.train_classifier(tmp_path, rendered, code, minutes=0.01)
        assert scores.keys() == {f"{a}_{b}" for a in ("rendered", "coded") for b in pictures.JUDGEMENTS}
        assert all(0 <= share <= 1 for share in scores.values())
    assert (tmp_path / "classifier.pt").exists()
