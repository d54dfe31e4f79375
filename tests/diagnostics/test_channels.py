"""Channel statistics against NumPy on the stored values, whole and in parts."""

import warnings

import numpy as np
import pytest

from ditq.core.errors import DitqError
from ditq.diagnostics import ChannelStatistics, merged, moving_shift


def values(tokens: int = 300, channels: int = 9, seed: int = 0) -> np.ndarray:
    x = (
        np.random.default_rng(seed).standard_normal((tokens, channels)) * np.geomspace(0.01, 100, channels)
        + 3
    )
    return x.astype(np.float32)


def in_parts(x: np.ndarray, cuts: list[int]) -> ChannelStatistics:
    return merged([ChannelStatistics.of(part) for part in np.split(x, cuts)])


@pytest.mark.parametrize("cuts", [[], [1], [100, 101, 250]])
def test_statistics_equal_numpys_in_float64(cuts):
    x = values()
    found, wanted = in_parts(x, cuts), x.astype(np.float64)
    assert found.count == 300 and found.channels == 9
    assert np.array_equal(found.minimum, wanted.min(axis=0)) and np.array_equal(
        found.maximum, wanted.max(axis=0)
    )
    np.testing.assert_allclose(found.mean, wanted.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.std, wanted.std(axis=0), rtol=1e-9)
    assert found.negative_fraction == (x < 0).mean()
    assert found.histograms.even.sum() == x.size


def test_parts_equal_the_whole_bit_for_bit_where_sums_are_exact():
    x = np.random.default_rng(1).integers(-1000, 1000, (200, 5)).astype(np.float32) / 64
    whole, parts = ChannelStatistics.of(x), in_parts(x, [3, 50, 177])
    for name in ("count", "total", "squares", "minimum", "maximum", "mean", "std"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def test_merging_leaves_the_parts_as_they_are():
    parts = [ChannelStatistics.of(values(seed=seed)) for seed in (0, 1)]
    before = parts[0].total.copy()
    merged(parts)
    assert parts[0].count == 300 and np.array_equal(parts[0].total, before)


def test_constant_channel_and_single_value_have_no_spread():
    x = np.full((7, 2), np.float32(0.1))
    assert np.array_equal(ChannelStatistics.of(x).std, np.zeros(2))
    assert np.array_equal(ChannelStatistics.of(x[:1]).std, np.zeros(2))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_one_error_and_no_warning(wrong):
    x = values()
    x[5, 2] = x[9, 3] = wrong
    with warnings.catch_warnings(), pytest.raises(DitqError, match="2 of 2,700 activations are not finite"):
        warnings.simplefilter("error")
        ChannelStatistics.of(x)


def test_moving_shift_is_the_papers_recurrence():
    batches = [values(40, 4, seed) for seed in range(6)]
    shift = None
    for x in batches:
        shift = moving_shift(shift, *(x.astype(np.float64).min(axis=0), x.astype(np.float64).max(axis=0)))
    for channel in range(4):
        ends = [(float(x[:, channel].min()), float(x[:, channel].max())) for x in batches]
        v = sum(ends[0]) / 2
        for low, high in ends[1:]:
            v = 0.95 * v + 0.05 * (low + high) / 2
        assert shift is not None and shift[channel] == pytest.approx(v, rel=1e-14)
