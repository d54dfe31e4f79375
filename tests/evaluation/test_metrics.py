"""Metrics against closed forms and against SciPy's filters."""

import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ditq.core.errors import UserError
from ditq.evaluation.metrics import (
    DEFAULT_METRICS,
    METRICS,
    Metric,
    Samples,
    metrics_named,
    psnr,
    relative_error,
    ssim,
)

RNG = np.random.default_rng(0)


def picture(height=24, width=32):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def samples(count=2):
    pictures = np.stack([picture() for _ in range(count)])
    latents = RNG.standard_normal((count, 3, 4, 5)).astype(np.float32)
    return Samples([str(i) for i in range(count)], pictures, latents)


def cut(whole, rows):
    return Samples(whole.prompts[rows], whole.pictures[rows], whole.latents[rows])


@pytest.mark.parametrize("step", [1, 7, 200])
def test_psnr_of_a_constant_difference_is_the_closed_form(step):
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, black + np.uint8(step)) == pytest.approx(20 * np.log10(255 / step))
    assert psnr(black + np.uint8(step), black) == pytest.approx(20 * np.log10(255 / step))


def test_identical_pictures_score_just_above_one_level_in_one_place():
    one = picture()
    other = one.copy()
    other[3, 4, 1] ^= 1
    assert psnr(one, other) == pytest.approx(10 * np.log10(255**2 * one.size))
    assert psnr(one, one) == np.nextafter(psnr(one, other), np.inf)


def test_relative_error_is_that_of_a_scaled_vector():
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    assert relative_error(x, 1.25 * x) == pytest.approx(0.25, rel=1e-6)
    assert relative_error(np.zeros(3), np.zeros(3)) == 0.0


def test_ssim_equals_that_of_scipys_filter():
    one = np.repeat(np.repeat(picture(6, 8), 4, 0), 4, 1)  # structure at several scales
    other = np.clip(one.astype(int) + RNG.integers(-30, 30, one.shape), 0, 255).astype(np.uint8)

    def blur(x):
        return gaussian_filter(x, 1.5, truncate=3.5, axes=(0, 1))[5:-5, 5:-5]

    x, y = one.astype(float), other.astype(float)
    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 2.55**2, 7.65**2
    wanted = ((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()
    assert ssim(one, other) == pytest.approx(wanted, abs=1e-12)
    assert ssim(one, one) == pytest.approx(1.0)


def test_ssim_of_a_picture_below_its_window_is_refused():
    with pytest.raises(UserError, match="a picture of 32 x 10; expected 11 x 11 pixels or more"):
        ssim(picture(10), picture(10))


def test_flip_is_that_of_its_authors_and_symmetric_and_of_black_and_white_nearly_one():
    (flip,) = metrics_named(["flip"])
    one, other = samples(1), samples(1)
    black = Samples(["a"], np.zeros((1, 64, 64, 3), np.uint8), one.latents)
    white = Samples(["a"], np.full((1, 64, 64, 3), 255, np.uint8), one.latents)
    import flip_evaluator

    pair = [each.pictures[0].astype(np.float32) / 255 for each in (one, other)]
    error_map, wanted, _ = flip_evaluator.evaluate(*pair, "LDR", applyMagma=False)
    assert flip.scores(one, other) == [pytest.approx(wanted)] == [pytest.approx(error_map.mean(), rel=1e-5)]
    assert flip.scores(other, one) == pytest.approx(flip.scores(one, other), rel=1e-5)
    assert flip.scores(one, one) == [0.0]
    assert 0.9 < flip.scores(black, white)[0] <= 1


def test_flip_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "flip_evaluator", None)
    with pytest.raises(UserError, match=r"expected the package flip-evaluator; pip install 'ditq\[eval\]'"):
        metrics_named(["flip"])


@pytest.mark.parametrize("name", METRICS)
def test_batches_score_as_the_pictures_one_by_one(name):
    (metric,) = metrics_named([name])
    assert isinstance(metric, Metric) and metric.name == name
    one, other = samples(3), samples(3)
    wanted = []
    for row in range(3):
        metric.begin()
        metric.add(cut(one, slice(row, row + 1)), cut(other, slice(row, row + 1)))
        wanted += metric.value().tolist()
    metric.begin()
    for rows in (slice(0, 2), slice(2, 3)):
        metric.add(cut(one, rows), cut(other, rows))
    assert metric.value().tolist() == wanted and len(set(wanted)) == 3
    metric.begin()
    metric.add(one, one)
    best, worse = metric.value(), np.array(wanted)
    assert ((best > worse) if metric.better == "higher" else (best < worse)).all()


def test_metrics_are_known_by_name_and_made_anew():
    assert set(DEFAULT_METRICS) <= set(METRICS)
    assert [metric.name for metric in metrics_named(["ssim", "psnr", "ssim"])] == ["ssim", "psnr"]
    assert metrics_named(["psnr"])[0] is not metrics_named(["psnr"])[0]
    with pytest.raises(UserError, match="metrics: got fid2; expected psnr or latent_error or ssim or flip"):
        metrics_named(["psnr", "fid2"])
