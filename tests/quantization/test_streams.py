"""Streams that stay on disk lead to the same bits as streams in memory, whatever the method."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import BlockCache
from ditq.core.files import read_npz
from ditq.core.spec import Spec
from ditq.quantization import WeightTrack, driver, quantize_weights
from ditq.weights import METHODS
from tests.quantization.test_driver import given  # noqa: F401 (a fixture)

FIELDS = {"adaround": {"iterations": 2, "batch_size": 4, "gptq": 0.0}, "gptq": {"damping": 0.01}}
FIELDS["qronos"] = FIELDS["gptq"]
STREAM = BlockCache.stream


def whole_stream(cache, boundary, quantized=False):
    """The arrays of a boundary in memory, all rows in float32."""
    rows = np.arange(len(cache))
    streams = STREAM(cache, boundary, quantized).items()
    return {name: stream.rows(rows).astype(mx.float32) for name, stream in streams}


def in_memory(parts, folder):
    parts = list(parts)
    return {name: mx.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(
    "method",
    ["rtn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gptq", "qronos", "adaround"))],
)
def test_the_same_bits_from_disk_and_from_memory(given, tmp_path, monkeypatch, method):  # noqa: F811
    model, calibration = given
    track = WeightTrack(METHODS[method](**FIELDS.get(method, {})), Spec(4), blocks=(0, 1))
    quantize_weights(model.kept, calibration.cache, track, tmp_path / "disk")
    monkeypatch.setattr(BlockCache, "stream", whole_stream)
    monkeypatch.setattr(driver, "spooled", in_memory)
    quantize_weights(model.kept, calibration.cache, track, tmp_path / "memory")
    for name in ("mm0.npz", "mm1.npz"):
        one, other = (read_npz(tmp_path / run / "weights" / name) for run in ("disk", "memory"))
        assert one.keys() == other.keys()
        assert all((one[key] == other[key]).all() for key in one), name
