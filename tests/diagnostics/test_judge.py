"""The findings on values whose answer is known, and the levels of a grid against counting them."""

import json

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.diagnostics import ActivationStatistics, ChannelStatistics, Thresholds, verdict
from ditq.diagnostics.levels import levels_per_tenth, steps
from tests.diagnostics.runs import invented, path_of


def of(steps: dict[float, np.ndarray], **thresholds) -> dict:
    path = path_of(0)
    channels = next(iter(steps.values())).shape[1]
    ends = (np.zeros(channels), np.ones(channels))
    found = ActivationStatistics({path: {}}, {path: ends}, np.arange(1))
    for t, x in steps.items():
        found.add(path, t, ChannelStatistics.of(x.astype(np.float32)))
    whole = verdict(found, Thresholds(**thresholds))
    json.dumps(whole, allow_nan=False)
    return whole["layers"][path]


def even(low: float, high: float, channels: int = 4) -> np.ndarray:
    return np.linspace(low, high, 101)[:, None].repeat(channels, axis=1)


def test_asymmetry_is_the_unused_part_of_a_symmetric_grid():
    found = of({1000.0: even(-1, 9)})["asymmetry"]
    assert found["strength"] == pytest.approx(0.5 - 1 / 18) and found["level"] == "strong"
    assert found["max_over_min"] == 9 and "44% of a symmetric grid's codes" in found["meaning"]
    assert of({1000.0: even(-5, 5)})["asymmetry"]["level"] == "none"
    assert of({1000.0: even(-7, 5)})["asymmetry"]["level"] == "mild"
    assert of({1000.0: even(2, 3)})["asymmetry"] | {"meaning": ""} == {
        "level": "strong", "strength": 0.5, "max_over_min": None, "meaning": "",
    }  # fmt: skip


def test_drift_is_the_loudest_timestep_over_the_quietest():
    found = of({1000.0: even(-1, 1), 500.0: even(-4, 2), 10.0: even(-2, 3)})["drift"]
    assert found["strength"] == 4 and found["level"] == "strong"
    assert found["loudest"] == {"timestep": 500.0, "max": 4.0} and found["quietest"]["timestep"] == 1000.0
    assert "4.0 times coarser than needed (2.0 bit) at timestep 1000" in found["meaning"]
    assert "cannot be judged" in of({1000.0: even(-1, 1)})["drift"]["meaning"]
    assert of({1000.0: even(0, 0), 5.0: even(-1, 1)})["drift"]["strength"] is None
    assert of({1000.0: even(0, 0), 5.0: even(0, 0)})["drift"]["level"] == "none"


def test_outliers_are_channels_wider_than_the_median():
    x = even(-1, 1, 9) * np.array([1, 1, 1, 1, 1, 1, 1, 3, 12])
    found = of({1000.0: x})["outliers"]
    assert found["strength"] == 12 and found["level"] == "strong" and found["channels"] == [7, 8]
    assert of({1000.0: x}, outliers=(4.0, 20.0))["outliers"]["level"] == "mild"
    silent = of({1000.0: even(-1, 1, 9) * (np.arange(9) == 4)})["outliers"]
    assert silent["strength"] is None and silent["level"] == "strong" and silent["channels"] == [4]
    assert of({1000.0: even(0, 0)})["outliers"]["level"] == "none"


def test_thresholds_are_checked():
    with pytest.raises(UserError, match="--drift-at: got 3.0 2.0"):
        Thresholds(drift=(3.0, 2.0))


def test_steps_hold_every_value_and_no_more():
    x = np.concatenate([even(-1, 9, 1), even(-0.5, 2.5, 1)], axis=1).astype(np.float32)
    found = steps(ChannelStatistics.of(x), 8)
    assert found == pytest.approx(
        {"symmetric": 9 / 127, "shifted": 5 / 127, "asymmetric": 10 / 255}, rel=1e-6
    )


def test_levels_of_a_tenth_equal_its_width_in_steps():
    x = np.random.default_rng(0).exponential(1, (5000, 4)).astype(np.float32)
    found = levels_per_tenth(ChannelStatistics.of(x), 8)
    edges = np.quantile(x, np.linspace(0, 1, 11))
    np.testing.assert_allclose(found["symmetric"], np.diff(edges) / (x.max() / 127), rtol=0.15)
    assert found["symmetric"].sum() == pytest.approx((x.max() - x.min()) / (x.max() / 127), rel=1e-6)
    assert np.all(found["shifted"] > 1.8 * found["symmetric"])


def test_verdict_is_json_and_counts_its_layers():
    found = verdict(invented(layers=5))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["summary"]["asymmetry"] == {"none": 0, "mild": 0, "strong": 5}
    assert all(e["outliers"]["channels"] == [3] for e in found["layers"].values())
    assert found["conclusions"][0].startswith("asymmetry: 5 of 5 layers, 5 of them strongly; most in mm_0")
