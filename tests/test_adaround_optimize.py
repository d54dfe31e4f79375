"""Step 3W without a model: the codes that learned rounding may take, its regulariser, its flags, its promise."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.spec import Spec
from ditq.weights import AdaRound
from ditq.weights.soft_rounding import indecision, start
from tests.weights.problems import layer_problem


def weights(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, 32)).astype(np.float32)


def test_four_bits_are_stored_as_int8_with_a_float32_scale_per_channel():
    rounding, part = start(mx.array(weights()), Spec(4))
    made = rounding.hardened(part)
    assert made.codes.dtype == mx.int8 and made.scale.dtype == mx.float32 and made.scale.shape == (6, 1)
    codes = np.array(made.codes)
    assert codes.min() >= -8 and codes.max() <= 7


def test_every_weight_rounds_down_or_up_and_half_of_the_way_decides():
    w = weights()
    rounding, part = start(mx.array(w), Spec(4))
    floor = np.clip(np.floor(w / np.array(rounding.scale)), -8, 7)
    down, up = (np.array(rounding.hardened(mx.full(w.shape, h)).codes) for h in (0.49, 0.5))
    assert np.array_equal(down, floor) and np.isin(up - down, (0, 1)).all() and (up > down).mean() > 0.8
    nearest = np.clip(np.round(w / np.array(rounding.scale)), -8, 7)
    assert np.array_equal(np.array(rounding.hardened(part).codes), nearest)


def test_the_regulariser_is_zero_for_whole_parts_and_greatest_in_the_middle():
    beta = mx.array(20.0)
    assert indecision(mx.array([[0.0, 1.0]]), beta).item() == 0
    assert indecision(mx.array([[0.5]]), beta).item() == 1
    part = np.linspace(0, 1, 11, dtype=np.float32)[None]
    assert indecision(mx.array(part), mx.array(2.0)).item() == pytest.approx(np.mean(1 - (2 * part - 1) ** 2))


def test_the_documented_schedule_is_the_default():
    method = AdaRound()
    assert (method.iterations, method.warmup, method.beta_start, method.beta_end) == (1000, 0.2, 20, 2)


def test_a_layer_is_never_worse_than_round_to_nearest():
    problem = layer_problem(
        weights(1), np.random.default_rng(2).standard_normal((64, 32)).astype(np.float32), Spec(3)
    )
    report = AdaRound(iterations=40, batch_size=16).quantize(problem).report
    assert report["error"] <= report["error_rounding"]
