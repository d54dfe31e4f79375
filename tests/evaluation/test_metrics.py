"""Metrics against closed forms and against SciPy's filters."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ditq.evaluation.metrics import METRICS, Samples, psnr, relative_error, ssim

RNG = np.random.default_rng(0)


def picture(height=24, width=32):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("step", [1, 7, 200])
def test_psnr_of_a_constant_difference_is_the_closed_form(step):
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, black + np.uint8(step)) == pytest.approx(20 * np.log10(255 / step))
    assert psnr(black + np.uint8(step), black) == pytest.approx(20 * np.log10(255 / step))


def test_equal_pictures_are_no_better_than_one_level_in_one_place():
    one = picture()
    other = one.copy()
    other[3, 4, 1] ^= 1
    assert psnr(one, one) == psnr(one, other) == pytest.approx(10 * np.log10(255**2 * one.size))


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


def test_every_metric_gives_a_value_per_picture():
    def samples():
        pictures = np.stack([picture(), picture()])
        return Samples(["a", "b"], pictures, RNG.standard_normal((2, 3, 4, 5)).astype(np.float32))

    one, other = samples(), samples()
    for metric in METRICS:
        assert metric(one, other).shape == (2,)
        worse, best = metric(one, other), metric(one, one)
        assert ((best > worse) if metric.better == "higher" else (best < worse)).all()
