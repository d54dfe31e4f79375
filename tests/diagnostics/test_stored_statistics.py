"""A file of statistics is held against its format: file, layer and array are named."""

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.diagnostics import read_statistics
from ditq.diagnostics.channels import ChannelStatistics
from ditq.diagnostics.statistics import ActivationStatistics, write_statistics

PREFIX = r"s.npz: fc2::t=500.0::"


@pytest.fixture
def stored(tmp_path):
    rng = np.random.default_rng(0)
    part = ChannelStatistics.of(rng.standard_normal((20, 4)).astype(np.float32))
    weights = {"fc2": (-np.ones(4), np.ones(4))}
    meta = {"model": "small", "layers": ["fc2"]}
    write_statistics(
        tmp_path / "s.npz", ActivationStatistics({"fc2": {500.0: part}}, weights, np.arange(3), meta)
    )
    return tmp_path / "s.npz"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("fc2::t=500.0::sum", lambda a: a[:3], PREFIX + r"sum_squares: got float64\(4,\); expected float64\(3,\)"),
        ("fc2::t=500.0::max", lambda a: a.astype(np.float32), PREFIX + r"max: got float32"),
        ("fc2::t=500.0::histogram", lambda a: a[1:], PREFIX + r"histogram: got int64\(511,\); expected whole"),
        ("fc2::t=500.0::wide_histogram", lambda a: a - 1, PREFIX + "wide_histogram: got no counts"),
        ("fc2::t=500.0::count", lambda a: np.zeros(2, np.int64), PREFIX + "count: got int64"),
        ("fc2::t=500.0::count", lambda a: a * 0, PREFIX + "count: got 0; expected one value at least"),
        ("fc2::t=500.0::min", lambda a: a * np.nan, "s.npz: got values that are not finite: fc2 at timestep 500.0"),
        ("fc2::weight_max", lambda a: a[:2], r"s.npz: fc2::weight_max: got float64\(2,\); expected float64\(4,\)"),
        ("fc2::weight_min", lambda a: a * np.inf, "s.npz: fc2::weight_min: got 4 of 4 values"),
        ("points", lambda a: a.astype(np.float32), "s.npz: points: got float32"),
    ],
)  # fmt: skip
def test_arrays_of_another_shape_or_kind_are_named(stored, name, change, message):
    arrays = read_npz(stored)
    write_npz(stored, {**arrays, name: np.asarray(change(arrays[name]))})
    with pytest.raises(UserError, match=message):
        read_statistics(stored)


@pytest.mark.parametrize("layers", ['"fc2"', "[1]", "[]", "null"])
def test_layers_are_a_list_of_names(stored, layers):
    arrays = read_npz(stored)
    meta = str(arrays["__meta__"]).replace('["fc2"]', layers)
    write_npz(stored, {**arrays, "__meta__": np.array(meta)})
    with pytest.raises(UserError, match="s.npz: layers"):
        read_statistics(stored)
