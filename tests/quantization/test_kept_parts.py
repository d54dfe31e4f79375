"""Finished parts that are lost or cut off are made again, equal to the bit, and other weights are told."""

import json
import warnings
from dataclasses import replace

import mlx.core as mx
import pytest

from ditq import capture
from ditq.core.errors import UserError
from ditq.core.recipe import recipe_from
from ditq.evaluation import fingerprint_of
from ditq.quantization import quantize
from ditq.quantization.preparation import _kept_table as kept_table
from tests.activations.test_quant_config import written as quant_config
from tests.quantization.test_driver import given  # noqa: F401

LINES = [
    {"paths": ["context_embedder", "final_layer.linear"], "method": "rtn", "bits": 8},
    {"roles": ["modulation", "embedder", "head"], "method": "float"},
    {"paths": ["*"], "method": "rtn", "bits": 4},
]
RECIPE = recipe_from({"kind": "ditq.recipe", "version": 1, "layers": LINES}, "rtn", "rtn.json")


def cut(path):
    path.write_bytes(path.read_bytes()[:-500])


def renamed(path):
    path.write_bytes(path.with_name("mm2.npz").read_bytes())


def empty(path):
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def whole(given, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("whole")
    return folder, quantize(*given[:1], RECIPE, given[1], folder)


@pytest.mark.parametrize(
    ("spoil", "names"),
    [
        (cut, ["mm1.npz"]),
        (cut, ["before.npz", "after.npz"]),
        (renamed, ["mm0.npz"]),
        (empty, ["mm2.npz", "before.npz"]),
        (lambda path: path.unlink(), ["mm0.npz", "after.npz"]),
    ],
)
def test_what_is_lost_or_cut_off_is_made_again(given, whole, spoil, names):  # noqa: F811
    folder, made = whole
    before = {name: (folder / "weights" / name).read_bytes() for name in names}
    for name in names:
        spoil(folder / "weights" / name)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = quantize(given[0], RECIPE, given[1], folder, resume=True)
    assert fingerprint_of(again) == fingerprint_of(made)
    assert {name: (folder / "weights" / name).read_bytes() for name in names} == before
    lost = [str(one.message) for one in told if "this part is computed again" in str(one.message)]
    there = [] if spoil.__name__ == "<lambda>" else names
    assert len(lost) == len(there) and all(
        name in line for name, line in zip(sorted(there), sorted(lost), strict=True)
    )


def test_other_weights_are_told_and_old_plans_are_accepted(given, whole):  # noqa: F811
    model, calibration = given
    folder, made = whole
    plan = folder / "plan.json"
    first = json.loads(plan.read_text())
    place = capture.layers(model.kept)["final_layer.linear"]
    kept = place.weight
    meta = {name: value for name, value in calibration.cache.meta.items() if name != "weights"}
    without = replace(
        calibration, cache=replace(calibration.cache, meta=meta)
    )  # a cache of an earlier version
    try:
        place.weight = kept + mx.array(0.01, kept.dtype)
        with pytest.raises(UserError, match=r"weights: got '.*'; expected '.*' as in the earlier run"):
            quantize(model, RECIPE, without, folder, resume=True)
    finally:
        place.weight = kept
    older = replace(calibration.cache, meta={**calibration.cache.meta, "producer": "ditq 0.0.1"})
    other = replace(calibration, cache=older)  # recorded by another version
    assert fingerprint_of(quantize(model, RECIPE, other, folder, resume=True)) == fingerprint_of(made)
    plan.write_text(json.dumps({name: value for name, value in first.items() if name != "weights"}))
    assert fingerprint_of(quantize(model, RECIPE, calibration, folder, resume=True)) == fingerprint_of(made)
    plan.write_text(json.dumps(first))


def test_grids_that_are_lost_or_cut_off_are_decided_on_again(tmp_path):
    assert kept_table(tmp_path / "quant_config.json") is None
    config, _, _ = quant_config(tmp_path)
    assert kept_table(config) is not None
    config.with_suffix(".npz").unlink()
    with pytest.warns(
        UserWarning, match=r"quant_config.npz: got no such file.*; the grids are decided on again"
    ):
        assert kept_table(config) is None
    config.write_text(config.read_text()[:-300])
    with pytest.warns(UserWarning, match="quant_config.json: got .*; the grids are decided on again"):
        assert kept_table(config) is None
