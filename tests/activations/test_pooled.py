"""Static grids for all timesteps are those of all timesteps' values together."""

import numpy as np
import pytest

from ditq.activations import ByError, Fixed, PerTimestep, Smoothing, Static
from ditq.activations.grid_search import Inputs, find_grid
from ditq.diagnostics import LayerStatistics, PooledStatistics
from tests.activations.invented import FC1, FC2, QKV, SIGMAS, folder, values


@pytest.fixture
def pooled(tmp_path) -> PooledStatistics:
    each = folder(tmp_path)
    return PooledStatistics(each.folder, each.manifest)


def test_pooled_statistics_are_those_of_all_values(pooled):
    for source, found in pooled.at(0).items():
        x = np.concatenate(
            [values(source, step).reshape(-1, values(source, step).shape[-1]) for step in SIGMAS]
        )
        assert found.count == len(x) and found.counts.sum() == x.size
        np.testing.assert_array_equal(found.abs_min, x.min(axis=0))
        np.testing.assert_array_equal(found.abs_max, x.max(axis=0))
        rows = {row.tobytes() for row in x.astype(np.float16)}
        assert all(row.astype(np.float16).tobytes() in rows for row in found.sample.rows)


def test_the_sample_draws_on_every_timestep(pooled):
    sample = pooled.at(0)[QKV[0]].sample.rows
    origin = [
        {row.tobytes() for row in values(QKV[0], step).reshape(-1, 24).astype(np.float16)} for step in SIGMAS
    ]
    counts = [sum(row.tobytes() in rows for row in sample) for rows in origin]
    assert sum(counts) == len(sample)
    assert min(counts) > 25  # a third of 171 is 57: five deviations less


def test_the_decision_is_one_row_of_least_error_over_all_timesteps(pooled):
    steps = []
    each = LayerStatistics(pooled.folder, pooled.manifest)
    decision = Static(Fixed(4), smoothing=Smoothing("none")).decide(
        each, lambda _: {}, lambda: steps.append(1)
    )
    table = decision.table(pooled.layers)
    assert table.timesteps.tolist() == [1000.0] and set(table.grids) == {*QKV, FC1, FC2} and len(steps) == 3
    inputs = Inputs.of(pooled.at(0)[FC2])
    best = find_grid(inputs, 4, decision.kinds[FC2])
    everywhere = table.grids[FC2].at(np.array([1000.0, 600.0, 3.0])).scale
    assert (everywhere == best.scale).all()
    quiet = find_grid(Inputs.of(super(PooledStatistics, pooled).at(0)[FC2]), 4, decision.kinds[FC2])
    assert inputs.error(best) < inputs.error(quiet)


def test_own_grids_are_kept_where_they_save_enough(tmp_path):
    """The invented inputs are three times as loud at the last step as at the first; in one a spike decides."""
    each = folder(tmp_path)
    decision = PerTimestep(Fixed(6), smoothing=Smoothing("none")).decide(each, lambda paths: {})
    saved = {source: report["saved_by_own_grids"] for source, report in decision.reports.items()}
    assert saved[QKV[0]] > 0.3 and saved[FC2] > 0.3 and abs(saved[FC1]) < 0.1
    scales = {source: set(steps.tolist()) for source, steps in decision.scales.items()}
    assert {source: len(found) for source, found in scales.items()} == {QKV[0]: 3, FC1: 1, FC2: 3}
    inputs = Inputs.of(PooledStatistics(each.folder, each.manifest).at(0)[FC1])
    best, rows = find_grid(inputs, 6, decision.kinds[FC1]), decision.rows[FC1]
    assert len(rows) == 3 and rows.scale.tolist() == best.scale.tolist() * 3
    assert rows.shift is None and best.shift is None


def test_timesteps_of_other_bits_keep_their_own_grids(tmp_path):
    each = folder(tmp_path)
    decision = PerTimestep(ByError(5.0), smoothing=Smoothing("none"), time_gain=1.0).decide(
        each, lambda paths: {}
    )
    mixed = [source for source, bits in decision.bits.items() if len(set(bits)) > 1]
    assert mixed and all(len(set(decision.scales[source].tolist())) == 3 for source in mixed)
