"""A file of points is held against what it must be, and parts that are lost or cut off are made again."""

import numpy as np
import pytest

from ditq.calibration import collect_points, parts_of, read_points
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, write_json, write_npz
from tests.calibration.test_point_collection import PROMPTS, RECIPE
from tests.sampling.test_generate import Small


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("points") / "points.npz"
    collect_points(Small(), PROMPTS, RECIPE, path)
    return path


def nan(array):
    changed = array.copy()
    changed.reshape(-1)[3] = np.nan
    return changed


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("xs", nan, "points.npz: xs: got 1 of 15,360 values that are not finite"),
        ("ts", nan, "points.npz: ts: got 1 of 15"),
        ("cs", nan, "points.npz: cs: got 1 of"),
        ("cs", lambda a: a[:, :1], r"points.npz: cs: got shape .*; expected 2 rows a prompt"),
        ("xs", lambda a: a.astype(np.float32), "got xs float32"),
        ("ts", lambda a: a[0], "got xs .*; expected .* 1 rows"),
        ("prompt_indices", lambda a: a - 1, "got prompt index -1; expected 0 or more"),
        ("prompt_indices", lambda a: a + 9, "got prompt index 11; expected below 3"),
        ("step_indices", lambda a: a - 99, "got step index -99; expected 0 or more"),
        ("prompts", lambda a: np.arange(3), "points.npz: prompts: got int64"),
        ("prompts", lambda a: a[:0], "points.npz: prompts: got"),
        ("cfg_scale", lambda a: np.float32(np.nan), "points.npz: cfg_scale: got 1 of 1 values"),
        ("cfg_scale", lambda a: np.ones(2, np.float32), r"points.npz: cfg_scale: got float32\(2,\)"),
    ],
)
def test_arrays_are_held_against_each_other(whole, tmp_path, name, change, message):
    arrays = read_npz(whole)
    write_npz(tmp_path / "points.npz", {**arrays, name: np.asarray(change(arrays[name]))})
    with pytest.raises(UserError, match=message):
        read_points(tmp_path / "points.npz")


def test_lost_cut_and_foreign_parts_are_made_again(whole, tmp_path, monkeypatch):
    path = tmp_path / "points.npz"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ditq.calibration.point_collection.write_points", interrupted)
        collect_points(Small(), PROMPTS, RECIPE, path)
    parts = sorted(parts_of(path).glob("trajectory*.npz"))
    parts[0].unlink()
    parts[1].write_bytes(parts[1].read_bytes()[:-50])
    write_npz(parts[2], {"x": read_npz(parts[2])["x"][:, :4]})
    write_npz(parts[3], {"x": nan(read_npz(parts[3])["x"])})
    known = read_json(parts_of(path) / "network.json")
    write_json(parts_of(path) / "network.json", {**known, "weights": "0" * 16})
    with pytest.raises(UserError, match="made with another model's weights: got weights 0{16}"):
        collect_points(Small(), PROMPTS, RECIPE, path, resume=True)
    write_json(parts_of(path) / "network.json", known)
    collect_points(Small(), PROMPTS, RECIPE, path, resume=True)
    assert path.read_bytes() == whole.read_bytes()
