"""The NumPy twin against `affine` in MLX, and its ranges against brute force over all candidates."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core import affine, affine_numpy
from ditq.core.spec import Spec
from tests.core.test_affine import SPECS, weights

SIX = np.linspace(1.0, 0.5, 6, dtype=np.float32)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_ranges_are_those_of_mlx(spec):
    w = weights()
    found, expected = affine_numpy.minmax_range(w, spec), affine.minmax_range(mx.array(w), spec)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float32 and np.allclose(one, np.array(other), rtol=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_weighed_ranges_are_the_best_of_all_candidates(spec):
    w = weights(columns=256)
    importance = np.exp(np.random.default_rng(1).standard_normal(256, dtype=np.float32))
    groups = spec.groups(256)

    def error(scale, zero):
        codes = affine.quantize(*map(mx.array, (w, scale, zero)), spec)
        wrong = np.array(affine.dequantize(codes, *map(mx.array, (scale, zero)))) - w
        return (
            (np.abs(wrong).astype(np.float64) ** affine_numpy.POWER * importance)
            .reshape(3, groups, -1)
            .sum(-1)
        )

    scale, zero = affine_numpy.minmax_range(w, spec)
    tried = [error(affine.storable(scale * f), zero) for f in SIX]
    found = error(*affine_numpy.searched_range(w, spec, SIX, importance))
    # the best one is chosen before its scale is rounded
    assert np.allclose(found, np.min(tried, axis=0), rtol=0.01)
    assert np.median(found / np.min(tried, axis=0)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_few_shrinks_are_enough_and_no_fewer_would_be(spec):
    w = np.random.default_rng(2).standard_t(4, (64, 256)).astype(np.float32)

    def error(shrinks):
        scale, zero = affine_numpy.searched_range(w, spec, np.array(shrinks, np.float32))
        wrong = affine_numpy.rounded(w, scale, zero, spec) - w
        return (np.abs(wrong).astype(np.float64) ** affine_numpy.POWER).sum()

    least = error(affine_numpy.SHRINKS)
    few = affine_numpy.sufficient_shrinks(w, spec)
    assert few[0] == 1 and len(set(few)) == len(few) < len(affine_numpy.SHRINKS)
    assert error(few) <= affine_numpy.ENOUGH * least * (1 + 1e-4)
    for place in range(1, len(few)):
        # Each was the best to add to those before it, and those were not enough
        assert error(few[:place]) > affine_numpy.ENOUGH * least
        others = [error([*few[:place], f]) for f in affine_numpy.SHRINKS]
        assert error(few[: place + 1]) <= min(others) * (1 + 1e-4)


def test_a_few_rows_with_great_errors_have_their_say():
    spec, w = Spec(8), np.random.default_rng(3).uniform(-1, 1, (64, 256)).astype(np.float32)
    assert affine_numpy.sufficient_shrinks(w, spec).tolist() == [1]
    w[5, 7] = 100.0
    importance = np.ones(256, np.float32)
    importance[7] = 0
    assert affine_numpy.sufficient_shrinks(w, spec, importance).tolist() == [1, affine_numpy.SHRINKS[-1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_steps_and_values_are_those_of_mlx(spec, dtype):
    w = weights()
    scale, zero = affine_numpy.searched_range(w, spec, SIX[::2])  # some values lie outside
    codes = affine.quantize(*map(mx.array, (w, scale, zero)), spec)
    own = w.reshape(*scale.shape, -1).astype(dtype)
    least, greatest = affine_numpy.reach(zero[..., None], spec)
    steps = affine_numpy.steps_from_zero(own, scale[..., None], least, greatest, out=own)
    assert steps is own and steps.dtype == dtype
    assert np.array_equal((steps + zero[..., None]).reshape(w.shape), np.array(codes))
    values = np.array(affine.dequantize(codes, *map(mx.array, (scale, zero))))
    assert np.allclose(affine_numpy.rounded(w, scale, zero, spec), values, atol=1e-6)
