"""Tiers by hand, budgets by brute force, factors by their gate, and what changes along the trajectory."""

import itertools

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import (
    ByError,
    ByTier,
    Decision,
    Fixed,
    LogSNRGrid,
    PerTimestep,
    Smoothing,
    Tiers,
    observed_ranges,
    temporal_analysis,
)
from ditq.activations.budget import allocate, lower_hull
from ditq.activations.grid_search import Inputs
from ditq.activations.smooth import best_factors, factors
from ditq.activations.tiers import Reach
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from tests.activations.invented import CHANNELS, FC1, FC2, QKV, SPIKE, folder, statistics_of, weights_of


@pytest.mark.parametrize(
    ("range_", "shifted", "smoothed", "bits"),
    [
        (5.9, False, False, 4),
        (6.0, False, False, 6),
        (9.9, False, False, 6),
        (10.0, False, False, 8),
        (4.9, True, False, 4),
        (5.0, True, False, 6),
        (10.0, True, False, 8),
        (11.0, False, True, 6),
        (7.0, False, True, 4),
        (1.0, False, True, 4),
    ],
)
def test_tiers_are_those_of_the_documents(range_, shifted, smoothed, bits):
    assert Tiers().bits(Reach(range_, p50=0.5, p99=2.0, shifted=shifted), smoothed) == bits


def test_a_long_tail_has_eight_bits_and_thresholds_are_parameters():
    assert Tiers().bits(Reach(1.0, p50=0.01, p99=0.5, shifted=False)) == 8
    assert Tiers().bits(Reach(1.0, p50=0.01, p99=0.5, shifted=False), smoothed=True) == 6
    assert Tiers(a4_below=0.5, a4_below_shifted=0.5).bits(Reach(1.0, 0.5, 1.0, False)) == 6
    with pytest.raises(UserError, match="--a6-below: got 3; expected at least the limits of A4"):
        Tiers(a6_below=3)


def brute(errors: np.ndarray, bits: list[int], sizes: np.ndarray, average: float) -> float:
    best = np.inf
    for options in itertools.product(range(len(bits)), repeat=len(errors)):
        used = sum(size * bits[o] for size, o in zip(sizes, options, strict=True))
        if used <= average * sizes.sum() + 1e-9:
            best = min(best, sum(row[o] for row, o in zip(errors, options, strict=True)))
    return best


def test_budget_is_brute_forces_on_the_hull_and_near_it_between():
    rng = np.random.default_rng(0)
    bits = [4, 6, 8]
    for trial in range(20):
        sizes = np.ones(6) if trial % 2 else rng.uniform(0.5, 2, 6)
        errors = np.cumsum(rng.uniform(0.1, 1, (6, 3))[:, ::-1] * [1, 4, 16], axis=1)[:, ::-1]
        steps = []
        for row, size in zip(errors, sizes, strict=True):
            hull = lower_hull(row, bits)
            steps += [
                (
                    (row[a] - row[b]) / (size * (bits[b] - bits[a])),
                    size * (bits[b] - bits[a]),
                    row[a] - row[b],
                )
                for a, b in itertools.pairwise(hull)
            ]
        steps.sort(reverse=True)
        taken = np.cumsum([cost for _, cost, _ in steps])
        for used in taken:  # budgets that the hull uses up exactly
            average = 4 + used / sizes.sum()
            chosen = allocate(errors, bits, sizes, average)
            total = sum(row[o] for row, o in zip(errors, chosen, strict=True))
            assert total == pytest.approx(brute(errors, bits, sizes, average))
        average = float(rng.uniform(4, 8))
        chosen = allocate(errors, bits, sizes, average)
        total = sum(row[o] for row, o in zip(errors, chosen, strict=True))
        assert (sizes * np.array(bits)[chosen]).sum() <= average * sizes.sum() + 1e-9
        assert total <= brute(errors, bits, sizes, average) + max(saved for _, _, saved in steps)


def test_budget_never_pays_for_bits_that_do_not_help():
    errors = np.array([[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]])
    assert allocate(errors, [4, 6, 8], np.ones(2), 8).tolist() == [2, 0]
    with pytest.raises(UserError, match="--average-bits: got 3.5; expected at least 4"):
        allocate(errors, [4, 6, 8], np.ones(2), 3.5)


def test_factors_bring_spikes_down_to_the_others():
    absmax, spikes = np.array([1.0, 2.0, 50.0, 0.5]), np.array([False, False, True, False])
    np.testing.assert_allclose(factors(absmax, spikes, 1.0), [1, 1, 25, 1])
    np.testing.assert_allclose(factors(absmax, spikes, 0.5), [1, 1, 5, 1])


def test_spikes_must_be_high_and_few():
    smoothing, absmax = Smoothing(), np.ones(100)
    assert smoothing.spikes(absmax, p99=0.5) is None
    absmax[:3] = 10
    found = smoothing.spikes(absmax, p99=0.5)
    assert found is not None and found.tolist() == [True] * 3 + [False] * 97
    absmax[:6] = 10
    assert smoothing.spikes(absmax, p99=0.5) is None


def test_policies_ask_the_statistics_what_can_be_folded(tmp_path):
    statistics = folder(tmp_path)
    assert Smoothing().allowed(statistics) == [QKV[0], FC1]
    assert (
        Smoothing("all").allowed(statistics) == [QKV[0], FC1, FC2]
        and Smoothing("none").allowed(statistics) == []
    )
    statistics.manifest["layers"][QKV[2]]["foldable"] = False  # one that shares the input could not follow
    assert Smoothing().allowed(statistics) == [FC1]
    del statistics.manifest["layers"][FC1]["foldable"]
    with pytest.raises(
        UserError,
        match="fc1: got no entry 'foldable': an older version .*; analyze with --smooth none or --smooth all",
    ):
        Smoothing().allowed(statistics)
    assert Smoothing("all").allowed(statistics) == [QKV[0], FC1, FC2]


def test_gate_takes_factors_that_help_and_refuses_those_that_do_not():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((1, 1, 400, 32)).astype(np.float32)
    x[..., 3] *= 60
    inputs = [Inputs.of(statistics_of(x, False, 400))]
    absmax, spikes = np.abs(x).max(axis=(0, 1, 2)), np.arange(32) == 3
    small = rng.standard_normal((16, 32)).astype(np.float32)
    small[:, 3] *= 0.02  # the spike meets small weights: moving it costs nothing
    found, errors = best_factors(inputs, [4], [mx.array(small)], absmax, spikes, Spec(8))
    assert found is not None and found[3] > 5 and min(errors.values()) < 0.7 and errors[0.0] == 1
    x[..., 3] /= 10
    even = [Inputs.of(statistics_of(x, False, 400))]
    large = rng.standard_normal((16, 32)).astype(
        np.float32
    )  # a raised column would widen every row's few steps
    found, errors = best_factors(even, [8], [mx.array(large)], absmax / 10, spikes, Spec(3))
    assert found is None and min(errors.values()) == 1


def test_decision_of_tiers_smooths_the_spiked_layer_and_lowers_its_tier(tmp_path):
    statistics, asked = folder(tmp_path), []

    def weights(paths):
        asked.extend(paths)
        found = weights_of(paths)
        found[FC1][:, SPIKE] *= 0.01
        return found

    decision = PerTimestep(ByTier()).decide(statistics, weights)
    assert asked == [FC1] and list(decision.smooth) == [FC1]
    assert decision.smooth[FC1][SPIKE] > 2 and (np.delete(decision.smooth[FC1], SPIKE) == 1).all()
    assert decision.bits[QKV[0]] == [4, 6, 8]  # louder from step to step
    assert decision.bits[FC1] == [6, 6, 6]  # A8 by its range, one tier less
    plain = PerTimestep(ByTier(), smoothing=Smoothing("none")).decide(statistics, weights)
    assert plain.bits[FC1] == [8, 8, 8] and not plain.smooth
    assert decision.kinds[FC2] == "tensor"
    fixed = PerTimestep(Fixed(8), smoothing=Smoothing("none")).decide(statistics, weights)
    assert fixed.kinds[FC2] == "tensor"  # one-sided


def test_budget_spends_where_errors_are(tmp_path):
    statistics = folder(tmp_path)
    decision = PerTimestep(ByError(6.0), smoothing=Smoothing("none")).decide(statistics, weights_of)
    fixed = {
        b: PerTimestep(Fixed(b), smoothing=Smoothing("none")).decide(statistics, weights_of)
        for b in (4, 6, 8)
    }

    def total(decided) -> float:
        return sum(report["relative_error"][decided.kinds[s]] for s, report in decided.reports.items())

    assert {b for bits in decision.bits.values() for b in bits} <= {4, 6, 8}
    assert total(fixed[8]) < total(decision) < total(fixed[6]) < total(fixed[4])
    cells = [(b, CHANNELS[s]) for s, bits in decision.bits.items() for b in bits]
    assert sum(b * size for b, size in cells) <= 6 * sum(size for _, size in cells)


def test_temporal_analysis_names_switching_and_constant_layers():
    bits = {"a": [8, 8, 6], "b": [8, 8, 8], "c": [4, 4, 4]}
    ranges = {"a": np.array([4.0, 2.0, 1.0]), "b": np.ones(3), "c": np.array([1.0, 3.0, 1.5])}
    scales = {"a": np.array([0.2, 0.1, 0.2]), "b": np.ones(3), "c": np.ones(3)}
    found = temporal_analysis(bits, ranges, scales, [0, 5, 10])
    assert found["switching_layers"] == ["a"] and found["always_a8_layers"] == ["b"]
    assert found["most_variable_layers"] == ["a", "c", "b"]
    assert found["layers"]["a"]["switches"] == [{"step": 10, "from": 8, "to": 6}]
    assert found["layers"]["a"]["range_drift"] == 4.0 and found["layers"]["c"]["widest_at_step"] == 5
    assert found["layers"]["a"]["clip_drift"] == pytest.approx(4.0)  # 51.2, 25.6, 12.8


def test_ready_made_grids_are_a_decision(tmp_path):
    statistics = folder(tmp_path)
    grid = LogSNRGrid(np.array([-3.0, 0.1]), 6)
    decision = Decision.of(statistics, {FC2: grid})
    assert decision.steps == [0, 2, 4] and decision.timesteps.tolist() == [1000, 600, 250]
    assert decision.bits == {FC2: [6, 6, 6]} and decision.kinds == {FC2: "none"} and decision.smooth == {}
    table = decision.table(statistics.layers)
    assert table.grids == {FC2: grid}  # the others keep their inputs
    found = observed_ranges(statistics, decision)
    searched = PerTimestep(Fixed(6), smoothing=Smoothing("none")).decide(statistics, weights_of)
    assert found[FC2].tolist() == searched.ranges[FC2].tolist()
    assert observed_ranges(statistics, searched) is searched.ranges
    qkv = searched.table(statistics.layers).grids
    assert qkv[QKV[0]] is qkv[QKV[1]] is qkv[QKV[2]]
