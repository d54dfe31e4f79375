"""Metrics of sets against SciPy's matrix root, closed forms and loops over all pairs."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from ditq.core.errors import UserError
from ditq.evaluation.metrics.frechet import Frechet
from ditq.evaluation.metrics.kernel_distances import Cubic, Gaussian
from ditq.evaluation.metrics.sets import _jackknife, _without

EVERY = [Frechet, Cubic, Gaussian]


def features(count, dims=5, shift=0.0, seed=0):
    return (
        np.random.default_rng(seed).standard_normal((count, dims)) @ np.diag(np.arange(1, dims + 1)) + shift
    )


@pytest.mark.parametrize(("n", "m", "dims"), [(60, 40, 5), (30, 25, 3), (40, 50, 8)])
def test_frechet_is_that_of_scipys_matrix_root(n, m, dims):
    a, b = features(n, dims), features(m, dims, 1.0, 1)
    one, two = np.cov(a.T), np.cov(b.T)
    means = np.square(a.mean(0) - b.mean(0)).sum()
    wanted = means + np.trace(one + two - 2 * np.real(sqrtm(one @ two)))
    assert Frechet().distance(a, b) == pytest.approx(wanted, rel=1e-9)


def test_frechet_with_fewer_pictures_than_features_is_the_same_after_a_rotation_into_more_dimensions():
    a, b = features(40, 6), features(30, 6, 0.5, 1)
    basis = np.linalg.qr(np.random.default_rng(2).standard_normal((90, 90)))[0][:6]
    assert Frechet().distance(a @ basis, b @ basis) == pytest.approx(Frechet().distance(a, b), rel=1e-9)


def test_frechet_approaches_the_closed_form_of_two_gaussians():
    a, b = features(40_000, 3), 2 * features(40_000, 3, seed=1) + 1
    assert Frechet().distance(a, b) == pytest.approx(3 + 1 + 4 + 9, rel=0.02)
    assert abs(Frechet().distance(a, a)) < 1e-6


@pytest.mark.parametrize("metric", [Cubic(), Gaussian()])
def test_kernel_distances_are_those_of_loops(metric):
    a, b = features(9), features(7, shift=1.0, seed=1)

    def kernel(x, y):
        if isinstance(metric, Cubic):
            return (x @ y / len(x) + 1) ** 3
        x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
        return 1000 * np.exp(-((x - y) @ (x - y)) / 200)

    def within(x):
        pairs = [kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j]
        return np.mean(pairs)

    between = np.mean([kernel(x, y) for x in a for y in b])
    assert metric.distance(a, b) == pytest.approx(within(a) + within(b) - 2 * between, rel=1e-8, abs=1e-9)


def test_cubic_is_unbiased():
    values = [Cubic().distance(features(20, 3, seed=s), features(20, 3, seed=9999 + s)) for s in range(2000)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_jackknife_of_a_mean_is_its_variance():
    x = features(1000, 1)
    found = _jackknife([float(part.mean()) for part in _without(x)])
    assert found == pytest.approx(1 / 1000, rel=0.8)
    # of groups of one size: exactly that of the mean of their means
    means = np.array([x[group::10].mean() for group in range(10)])
    assert found == pytest.approx(means.var(ddof=1) / 10, rel=1e-9)


@pytest.mark.parametrize("made", EVERY)
def test_a_shifted_set_is_told(made):
    a, other = features(80), features(80, seed=1)
    far = made().compare(a, features(80, shift=4.0, seed=2), other)
    assert far.low <= far.value <= far.high and far.value > far.floor_worst and far.warnings == ()
    assert far.pictures == (80, 80) and far.floor_pictures == 80
    assert made().compare(a, other).floor_pictures == 40


@pytest.mark.parametrize("made", EVERY)
def test_another_draw_of_the_same_is_told_about_once_in_twenty(made):
    told = 0
    for seed in range(0, 180, 3):
        result = made().compare(*(features(40, 3, seed=1000 + seed + one) for one in range(3)))
        told += not any("does not tell these 40 pictures" in warning for warning in result.warnings)
    assert told <= 9  # of 60; more with probability 0.1 % where it is 5 %


def test_too_few_pictures_are_told_or_refused():
    assert (
        "20 pictures do not determine"
        in Frechet().compare(features(20, 30), features(20, 30, seed=1)).warnings[0]
    )
    with pytest.raises(UserError, match="got a set of 19 pictures with 5 features each; expected 20 or more"):
        Cubic().compare(features(30), features(19))
    with pytest.raises(UserError, match="5 finite features each"):
        Cubic().compare(features(30), features(30, 6))
