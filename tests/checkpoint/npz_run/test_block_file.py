"""A block's layers come back from their file bit for bit, and a file that is not whole is refused by name."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.checkpoint.npz_run.block_file import block_file, read_block, static_grid, write_block
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import round_to_nearest
from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_npz, write_npz
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec

LAYER = "multimodal_transformer_blocks.2.image_transformer_block.mlp.fc1"


def weight(spec: Spec, smooth: bool = False) -> QuantizedWeight:
    w = mx.array(np.random.default_rng(1).normal(size=(5, 64)).astype(np.float32))
    return QuantizedWeight(*round_to_nearest(w, spec), spec, mx.linspace(1, 2, 64) if smooth else None)


@pytest.mark.parametrize(
    "spec", [Spec(2), Spec(4, group_size=64), Spec(8), Spec(8, symmetric=False), Spec(7, False, 32)], ids=str
)
@pytest.mark.parametrize("smooth", [False, True])
def test_round_trip_is_exact(tmp_path, spec, smooth):
    before = weight(spec, smooth)
    write_block(tmp_path, 2, {LAYER: before}, {LAYER: static_grid(0.25, -1.5, 6)}, {"model": "mini"})
    after, activations, meta = read_block(tmp_path, 2, 6)
    assert after[LAYER].spec == spec and activations.keys() == {LAYER} and meta["model"] == "mini"
    rows = activations[LAYER].rows
    numbers = [np.array(part).item() for part in (rows.scale, rows.qmin, rows.qmax, rows.shift)]
    assert numbers == [0.25, -32, 31, -1.5]
    smoothing = activations[LAYER].smooth
    assert (smoothing is not None) == smooth and (not smooth or mx.array_equal(smoothing, before.smooth))
    for part in ("codes", "scale", "zero"):
        assert mx.array_equal(getattr(after[LAYER], part), getattr(before, part)), part
    assert (after[LAYER].smooth is not None) == smooth


def test_the_file_has_the_documented_arrays(tmp_path):
    write_block(tmp_path, 0, {LAYER: weight(Spec(4))}, {LAYER: static_grid(0.5, 0.0, 8)}, {})
    arrays = read_npz(tmp_path / "weights" / "mm0.npz")
    shapes = {name.removeprefix(LAYER): (array.dtype.name, array.shape) for name, array in arrays.items()}
    shapes.pop("__meta__")
    assert shapes == {
        "__weight_int": ("int8", (5, 64)),
        "__scale": ("float32", (5, 1)),
        "__a_scale": ("float32", ()),
        "__a_shift": ("float32", ()),
    }


@pytest.mark.parametrize("part", ["weight_int", "scale"])
def test_a_missing_part_is_named(tmp_path, part):
    write_block(tmp_path, 0, {LAYER: weight(Spec(4))}, {}, {})
    arrays = read_npz(block_file(tmp_path, 0))
    del arrays[f"{LAYER}__{part}"]
    write_npz(block_file(tmp_path, 0), arrays)
    with pytest.raises(UserError, match=rf"fc1: got no {part}"):
        read_block(tmp_path, 0, 8)


def test_other_files_are_refused(tmp_path):
    write_npz(block_file(tmp_path, 0), {"x": np.zeros(3)})
    with pytest.raises(
        UserError, match="mm0.npz: got None version None; expected ditq.quantized_block version 1"
    ):
        read_block(tmp_path, 0, 8)
    with pytest.raises(UserError, match="no such file"):
        read_block(tmp_path, 1, 8)


def test_codes_beyond_their_grid_are_refused(tmp_path):
    write_block(tmp_path, 0, {LAYER: weight(Spec(4))}, {}, {})
    arrays = read_npz(block_file(tmp_path, 0))
    arrays[f"{LAYER}__weight_int"][0, 0] = 9
    write_npz(block_file(tmp_path, 0), arrays)
    with pytest.raises(UserError, match="fc1: codes: got from -8 to 9"):
        read_block(tmp_path, 0, 8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a.pop(f"{LAYER}__a_shift"), "fc1: got no a_shift; expected one finite number"),
        (lambda a: a.update({f"{LAYER}__a_scale": np.array(np.nan)}), "fc1: got a_scale nan; expected one"),
        (lambda a: a.update({f"{LAYER}__a_scale": np.ones(2)}), "fc1: got a_scale .*; expected one"),
    ],
)
def test_a_grid_that_is_not_whole_is_named(tmp_path, spoil, message):
    write_block(tmp_path, 0, {LAYER: weight(Spec(4))}, {LAYER: static_grid(0.5, 1.0, 8)}, {})
    arrays = read_npz(block_file(tmp_path, 0))
    spoil(arrays)
    write_npz(block_file(tmp_path, 0), arrays)
    with pytest.raises(UserError, match=message):
        read_block(tmp_path, 0, 8)


def test_only_static_grids_can_be_written(tmp_path):
    rows = GridRows.of([8, 8], np.ones(2, np.float32))
    with pytest.raises(DitqError, match="fc1: only a static grid with one centre can be stored, got 2 rows"):
        write_block(tmp_path, 0, {}, {LAYER: TimestepGrid(np.array([900.0, 100.0]), rows)}, {})
    assert not list(tmp_path.iterdir())


def test_steps_of_a_table_are_stored_and_taken_for_no_static_grid(tmp_path):
    steps = np.array([0.5, 0.25, 0.125], np.float32)
    plain, told = tmp_path / "plain", tmp_path / "told"
    write_block(plain, 0, {LAYER: weight(Spec(4))}, {}, {})
    write_block(told, 0, {LAYER: weight(Spec(4))}, {}, {}, {LAYER: steps})
    before, after = read_npz(block_file(plain, 0)), read_npz(block_file(told, 0))
    assert np.array_equal(after.pop(f"{LAYER}__a_scale"), steps) and after.keys() == before.keys()
    assert all(np.array_equal(after[name], before[name]) for name in after)
    assert read_block(told, 0, 8)[1] == {}


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("scale", 0.0, "scale: got 0; expected steps above 0"),
        ("scale", -0.1, "scale: got -0.1"),
        ("scale", np.inf, "scale: got values that are not finite"),
        ("scale", 1e-38, "scale: got 1e-38"),
        ("scale", 1e30, r"scale: got 1e\+30"),
        ("zero", 3e38, r"zero: got 3e\+38; expected whole numbers from 0 to 15"),
        ("zero", 2.5, "zero: got 2.5; expected whole numbers from 0 to 15"),
        ("zero", -1, "zero: got -1"),
        ("zero", np.nan, "zero: got values that are not finite"),
        ("smooth", 0.0, "smooth: got 0; expected factors above 0"),
        ("smooth", np.inf, "smooth: got values that are not finite"),
        ("a_scale", -0.5, "activation scale: got -0.5"),
        ("a_scale", 0.0, "activation scale: got 0"),
        ("a_shift", 1e30, r"activation shift: got 1e\+30"),
    ],
)
def test_senseless_numbers_are_refused_with_file_and_layer(tmp_path, part, value, message):
    write_block(tmp_path, 0, {LAYER: weight(Spec(4, False), True)}, {LAYER: static_grid(0.5, 1.0, 8)}, {})
    arrays = read_npz(block_file(tmp_path, 0))
    array = arrays[f"{LAYER}__{part}"]
    array[(0,) * array.ndim] = value
    write_npz(block_file(tmp_path, 0), arrays)
    with pytest.raises(UserError, match=f"mm0.npz: .*fc1: {message}"):
        read_block(tmp_path, 0, 8)
