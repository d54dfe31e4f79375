"""Grids and bits by damage, against a loop over steps and channels, and against output errors where both agree."""

from dataclasses import replace

import numpy as np
import pytest

from ditq.activations import ByError, Fixed, PerTimestep, Smoothing, Static, described, method_for
from ditq.core.errors import DitqError, UserError
from ditq.core.spec import Spec
from ditq.diagnostics import Damage
from tests.activations.invented import CHANNELS, FC1, FC2, QKV, SIGMAS, folder, weights_of

NONE = Smoothing("none")


def damage_of(of_step=(1.0, 1.0, 1.0), of_input=(1.0, 1.0, 1.0), seed: int | None = None) -> Damage:
    """Invented, measured at the three steps of the invented statistics; channels all count the same without a seed."""
    squares = {}
    for (source, channels), own in zip(CHANNELS.items(), of_input, strict=True):
        each = np.ones(channels) if seed is None else np.random.default_rng(seed).uniform(0, 1, channels)
        squares[source] = own * np.array(of_step)[:, None] * each
    meta = {"model": "invented", "weights": "?", "sigmas": [*SIGMAS.values(), 0.0]}
    return Damage(meta, np.arange(3), squares, np.arange(3), np.ones(3))


def test_where_all_counts_the_same_grids_are_those_by_output_error(tmp_path):
    statistics = folder(tmp_path)
    for method in (
        PerTimestep(Fixed(5), smoothing=NONE),
        PerTimestep(Fixed(4), smoothing=NONE, time_gain=-9),
    ):
        plain = method.decide(statistics, weights_of)
        found = replace(method, damage=damage_of()).decide(statistics, weights_of)
        own = {
            source
            for source, report in plain.reports.items()
            if report["saved_by_own_grids"] >= method.time_gain
        }
        for source in own:
            np.testing.assert_array_equal(found.scales[source], plain.scales[source])


@pytest.mark.parametrize("cls", [Static, PerTimestep])
def test_predicted_damage_is_a_loop_over_steps_and_channels(tmp_path, cls):
    statistics, damage = folder(tmp_path), damage_of((5.0, 1.0, 0.2), seed=1)
    decision = cls(Fixed(4), smoothing=NONE, damage=damage).decide(statistics, weights_of)
    rows = decision.table(statistics.layers).grids
    for source in (QKV[0], FC2):
        total = 0.0
        grid = rows[source].at(statistics.timesteps)
        for i, step in enumerate(statistics.steps):
            found = statistics.at(step)[source]
            scale, shift = float(grid.scale[i]), 0.0 if grid.shift is None else np.array(grid.shift[i])
            sample = [(row, 1 / len(found.sample.rows)) for row in found.sample.rows.astype(np.float32)]
            for x, part in [*sample, (found.abs_min, 1 / found.count), (found.abs_max, 1 / found.count)]:
                error = np.clip(np.round((x - shift) / scale), -8, 7) * scale + shift - x
                total += part * (error.astype(np.float64) ** 2) @ damage.squares[source][i]
        assert decision.reports[source]["predicted_damage"] == pytest.approx(total, rel=1e-4)


def test_a_static_grid_follows_the_steps_whose_errors_cost(tmp_path):
    statistics = folder(tmp_path)  # each step is louder than the one before
    first, last = (
        Static(Fixed(6), smoothing=NONE, damage=damage_of(weights))
        .decide(statistics, weights_of)
        .scales[QKV[0]]
        for weights in ((1.0, 1e-6, 1e-6), (1e-6, 1e-6, 1.0))
    )
    assert last > 1.5 * first


def test_grids_per_timestep_are_never_predicted_worse_than_one(tmp_path):
    statistics, damage = folder(tmp_path), damage_of((3.0, 1.0, 0.1), seed=2)
    each, one = (
        cls(Fixed(4), smoothing=NONE, damage=damage).decide(statistics, weights_of).reports
        for cls in (PerTimestep, Static)
    )
    for source in CHANNELS:
        assert each[source]["predicted_damage"] <= 1.001 * one[source]["predicted_damage"]


def test_bits_go_where_errors_cost(tmp_path):
    statistics = folder(tmp_path)
    for at, source in enumerate(CHANNELS):
        costly = damage_of(of_input=tuple(1.0 if i == at else 1e-9 for i in range(3)))
        decision = PerTimestep(ByError(6.0), smoothing=NONE, damage=costly).decide(statistics, weights_of)
        if source != FC1:  # whose 128 channels take more than half of all values
            assert set(decision.bits[source]) == {8}


def test_damage_of_another_model_is_refused(tmp_path):
    statistics, damage = folder(tmp_path), damage_of()
    damage.check(statistics, "damage.npz")
    other = replace(damage, meta={**damage.meta, "model": "mini"})
    with pytest.raises(UserError, match="damage.npz: model: got mini; expected invented"):
        other.check(statistics, "damage.npz")
    lacking = replace(damage, squares={QKV[0]: damage.squares[QKV[0]]})
    with pytest.raises(UserError, match=r"fc1: got no such input; expected 128 channels"):
        lacking.check(statistics, "damage.npz")


def test_what_a_recipe_asks_for_is_measured_first(tmp_path):
    statistics = folder(tmp_path)
    asked = method_for({"bits": 4, "damage": {}}, Spec(4), "r")
    assert isinstance(asked, PerTimestep)
    with pytest.raises(DitqError, match="the damage was not measured"):
        asked.decide(statistics, weights_of)
    found = asked.by_damage(damage_of()).decide(statistics, weights_of)
    assert all(report["predicted_damage"] > 0 for report in found.reports.values())
    assert described(asked.by_damage(damage_of()))["damage"] == damage_of().digest
