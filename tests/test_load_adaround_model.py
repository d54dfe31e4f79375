"""Step 4 without a model: the files of step 3W become weights, V1 and V2 differ in the activations alone."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.checkpoint.npz_run.block_file import static_grid, write_block
from ditq.checkpoint.npz_run.run import KIND, VERSION, read_adaround
from ditq.core.activation_grid import nearest_rows
from ditq.core.affine import round_to_nearest
from ditq.core.errors import UserError
from ditq.core.files import write_json
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.nn import QuantizedLinear, StepClock, WeightOnlyLinear

LAYER = "blocks.0.mlp.fc1"


@pytest.fixture
def run(tmp_path):
    """A finished run of one block with one layer, whose input has a static grid of eight bits."""
    w = mx.array(np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32))
    made = QuantizedWeight(*round_to_nearest(w, Spec(4)), Spec(4))
    write_block(tmp_path, 0, {LAYER: made}, {LAYER: static_grid(0.05, 0.0, 8)}, {"report": {}})
    config = {"kind": KIND, "version": VERSION, "model": "mini", "bits_a": 8, "recipe": {}}
    write_json(tmp_path / "config.json", {**config, "quantized_blocks": [0]})
    return tmp_path


def test_a_weight_is_its_codes_times_the_scale(run):
    found = read_adaround(run)
    weight = found.weights[LAYER]
    expected = np.array(weight.codes).astype(np.float32) * np.array(weight.scale)
    assert np.array_equal(np.array(weight.effective()), expected)
    assert found.model == "mini" and found.activations is not None


def test_v1_leaves_the_input_and_v2_puts_it_on_its_grid(run):
    found = read_adaround(run)
    weight, grid = found.weights[LAYER], found.activations.grids[LAYER]
    x = np.random.default_rng(1).standard_normal((3, 32)).astype(np.float32)
    dense, clock = np.array(weight.effective()), StepClock()
    v1, v2 = WeightOnlyLinear(weight, None), QuantizedLinear(weight, None, grid, clock)
    clock.follow(np.array([1000.0, 500.0], np.float32))
    clock.set(1)
    on_grid = np.clip(np.round(x / np.float32(0.05)), -128, 127) * 0.05
    assert np.allclose(np.array(v1(mx.array(x))), x @ dense.T, atol=1e-5)
    assert np.allclose(np.array(v2(mx.array(x))), on_grid @ dense.T, atol=1e-4)


def test_a_timestep_takes_the_row_of_the_nearest_calibrated_one():
    calibrated = np.array([1000.0, 600.0, 200.0])
    assert nearest_rows(calibrated, np.array([1000.0, 790.0, 401.0, 0.0])).tolist() == [0, 1, 1, 2]


def test_a_block_that_is_missing_is_named(run):
    (run / "weights" / "mm0.npz").unlink()
    with pytest.raises(UserError, match="mm0.npz: got no such file"):
        read_adaround(run)
