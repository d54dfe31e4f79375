"""Both histograms against NumPy's own, and quantiles against sorted values."""

import numpy as np
import pytest

from ditq.diagnostics.histogram import BINS, Histograms, even_edges, quantiles, slot_counts, wide_edges
from ditq.diagnostics.histogram import histograms as of_slots


def histograms(x: np.ndarray) -> Histograms:
    return of_slots(slot_counts(x))


def samples(seed: int = 0) -> np.ndarray:
    """Values of all sizes, every edge of the even bins, its neighbours on both sides, and both zeros."""
    rng = np.random.default_rng(seed)
    edges = np.linspace(-8, 8, 513).astype(np.float32)
    beside = [np.nextafter(edges, np.float32(side)) for side in (-np.inf, np.inf)]
    wild = rng.standard_normal(5000) * 10.0 ** rng.integers(-8, 4, 5000)
    gelu = 3 * rng.standard_normal(5000)
    return np.concatenate([edges, *beside, wild, gelu * (gelu > 0), [0.0, -0.0, 1e-40, -1e-40]]).astype(
        np.float32
    )


def test_even_bins_equal_numpys():
    x = samples()
    found = histograms(x).even
    wanted, edges = np.histogram(x[x < 8], bins=BINS, range=(-8, 8))
    assert np.array_equal(edges, even_edges())
    assert np.array_equal(found[1:-1], wanted)
    assert found[0] == (x < -8).sum() and found[-1] == (x >= 8).sum() and found.sum() == x.size


def test_wide_bins_equal_a_search_among_their_edges():
    x = samples(1)
    edges = wide_edges()
    assert np.all(np.diff(edges) > 0) and np.array_equal(edges, -edges[::-1])
    found = histograms(x).wide
    inside = np.clip(np.searchsorted(edges, x.astype(np.float64), side="right") - 1, 0, len(edges) - 2)
    # NumPy closes every bin below, as ours do
    assert np.array_equal(found, np.bincount(inside, minlength=len(edges) - 1))


@pytest.mark.parametrize("shape", [(7,), (3, 4, 5), (1, 1)])
def test_any_shape_counts_each_value_once(shape):
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    both = histograms(x)
    assert both.even.sum() == both.wide.sum() == x.size


def test_parts_add_up_to_the_whole():
    x = samples(3)
    parts = [histograms(part) for part in np.array_split(x, 7)]
    whole = sum(parts, Histograms.empty())
    assert np.array_equal(whole.even, histograms(x).even) and np.array_equal(whole.wide, histograms(x).wide)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
def test_quantiles_err_by_less_than_a_sixteenth(scale):
    rng = np.random.default_rng(4)
    x = (
        scale * np.where(rng.random(20000) < 0.7, -0.17 * rng.random(20000), rng.exponential(2, 20000))
    ).astype(np.float32)
    fractions = np.linspace(0, 1, 11)
    found = quantiles(histograms(x).wide, fractions, float(x.min()), float(x.max()))
    wanted = np.quantile(x, fractions)
    assert found[0] == x.min() and found[-1] == x.max() and np.all(np.diff(found) >= 0)
    assert np.all(np.abs(found - wanted) <= np.abs(wanted) / 16 + 1e-4 * scale)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-9, 1e9])
def test_quantiles_of_a_constant_are_the_constant(value):
    x = np.full(10, value, np.float32)
    found = quantiles(histograms(x).wide, np.array([0, 0.5, 1]), float(x[0]), float(x[0]))
    assert np.array_equal(found, np.full(3, float(x[0])))
