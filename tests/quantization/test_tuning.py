"""The last pass: the prediction comes nearer, codes stay, and a killed run ends in the same bits."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import ActivationTable
from ditq.calibration import replay_inputs
from ditq.checkpoint import injected, read_folder, write_folder
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, write_npz
from ditq.core.recipe import plain_recipe, read_recipe, recipe_from
from ditq.core.spec import Spec
from ditq.evaluation import fingerprint_of
from ditq.quantization import quantize
from ditq.quantization.forecast import forecast
from ditq.quantization.tuning import Tuner, Tuning, tuning_of
from tests.checkpoint.small import same
from tests.quantization.test_driver import given  # noqa: F401  a fixture

THREE_BITS = plain_recipe("rounded", "rtn", Spec(3, True, 32))
TUNED = replace(THREE_BITS, tuning={"steps": 12, "pictures": 2, "rate": 0.003})


@pytest.fixture(scope="module")
def tuned(given, tmp_path_factory):  # noqa: F811
    model, calibration = given
    folder = tmp_path_factory.mktemp("tuned")
    return quantize(model, TUNED, calibration, folder), folder


def error(model, made, images, chosen) -> float:
    """The relative squared error of plain and guided predictions at the steps that judge, by NumPy."""
    found, weight = [], images.manifest["cfg_weight"]
    steps = np.unique(np.linspace(0, len(images.sigmas) - 1, 4).round().astype(int)).tolist()
    for step in steps:
        latents, inputs = replay_inputs(model.kept, images, chosen, step)
        wanted = np.array(model.kept(latents, **inputs))
        with injected(model.kept, made, activations=False):
            latents, inputs = replay_inputs(model.kept, images, chosen, step)
            wrong = np.array(model.kept(latents, **inputs)) - wanted
        prompt, negative = np.split(wrong, 2)
        guided = negative + weight * (prompt - negative)
        found.append((np.square(wrong).mean() + np.square(guided).mean()) / 2 / np.square(wanted).mean())
    return float(np.mean(found))


def test_the_prediction_of_pictures_that_were_not_learned_comes_nearer(given, tuned):  # noqa: F811
    (model, calibration), (made, folder) = given, tuned
    before = quantize(model, THREE_BITS, calibration, folder / "before")
    report = read_json(folder / "report.json")["tuning"]
    chosen = list(dict.fromkeys(image for image, _ in calibration.cache.samples))
    assert report["pictures_judged"] == len(chosen) == 3  # too few to hold one out
    assert report["error_before"] == pytest.approx(error(model, before, calibration.images, chosen), rel=1e-3)
    assert report["error"] == pytest.approx(error(model, made, calibration.images, chosen), rel=1e-3)
    assert not report["kept_before"] and report["error"] < 0.9 * report["error_before"]
    moved = 0
    for path, weight in made.weights.items():
        assert mx.array_equal(weight.codes, before.weights[path].codes)
        assert weight.is_half and mx.array_equal(weight.bias, weight.bias.astype(mx.float16))
        moved += not mx.array_equal(weight.scale, before.weights[path].scale).item()
    assert moved > 0.9 * len(made.weights)  # nothing reads what the last block makes of the text


def test_a_folder_keeps_scales_and_biases(given, tuned, tmp_path):  # noqa: F811
    (model, _), (made, _) = given, tuned
    write_folder(tmp_path, model.kept, made)
    found = read_folder(tmp_path)
    same(made, found, ("codes", "scale", "zero", "bias"))
    assert fingerprint_of(found) == fingerprint_of(made)


def test_a_killed_run_ends_in_the_same_bits(given, tuned, tmp_path):  # noqa: F811
    (model, calibration), (made, folder) = given, tuned

    def killed(step, loss):
        if step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(model, TUNED, calibration, tmp_path, on_tuning=killed)
    assert int(read_npz(tmp_path / "weights" / "tuning.npz")["step"]) == 6
    seen = []
    again = quantize(
        model, TUNED, calibration, tmp_path, resume=True, on_tuning=lambda step, loss: seen.append(step)
    )
    assert seen == list(range(7, 13)) and fingerprint_of(again) == fingerprint_of(made)
    assert read_json(tmp_path / "report.json") == read_json(folder / "report.json")


def test_a_damaged_state_is_made_again(given, tuned, tmp_path):  # noqa: F811
    (model, calibration), (made, _) = given, tuned
    quantize(model, TUNED, calibration, tmp_path)
    state = tmp_path / "weights" / "tuning.npz"
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.warns(UserWarning, match="tuning.npz.*tuned from the beginning"):
        again = quantize(model, TUNED, calibration, tmp_path, resume=True)
    assert fingerprint_of(again) == fingerprint_of(made)


def test_what_does_not_help_is_left_out(given, tmp_path):  # noqa: F811
    model, calibration = given
    harmful = replace(THREE_BITS, tuning={"steps": 2, "pictures": 1, "rate": 1.0})
    made = quantize(model, harmful, calibration, tmp_path)
    before = quantize(model, THREE_BITS, calibration, tmp_path / "before")
    report = read_json(tmp_path / "report.json")["tuning"]
    assert report["kept_before"] and report["error"] == report["error_before"]
    assert fingerprint_of(made) == fingerprint_of(before)


def test_a_state_of_something_else_is_refused(given, tuned, tmp_path):  # noqa: F811
    (model, calibration), (made, _) = given, tuned
    tuner = Tuner(model.kept, made.weights, None, calibration.images, [0, 1], Tuning(2))
    write_npz(tmp_path / "tuning.npz", {"step": np.array(1)})
    with pytest.raises(UserError, match="tuning.npz: learned/.*: got nothing; .*remove the file"):
        tuner.run(tmp_path / "tuning.npz")


def test_a_forecast_counts_the_last_pass(given):  # noqa: F811
    model, calibration = given
    plain, more = (forecast(model, recipe, calibration.cache.meta) for recipe in (THREE_BITS, TUNED))
    layers = model.kept.anatomy.modules(model.kept).values()
    assert more.cost.rows > 2 * plain.cost.rows
    assert more.cost.memory >= 8 * sum(layer.weight.size for layer in layers)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"steps": 0}, "tuning: steps: got 0"),
        ({"rate": 0.0}, "tuning: rate: got 0.0; expected above 0, at most 1"),
        ({"rate": float("nan")}, "tuning: rate: got NaN"),
        ({"pictures": 2.5}, "tuning: pictures: got 2.5"),
        ({"epochs": 3}, "unknown key 'epochs'"),
    ],
)
def test_wrong_settings_are_named(content, says):
    with pytest.raises(UserError, match=says):
        tuning_of(content, "recipe r")


def test_recipes_keep_what_they_ask():
    content = {**read_recipe("w4a8-rtn").to_json(), "tuning": {"steps": 5}}
    assert recipe_from(content, "r", "r.json").to_json() == content
    assert "tuning" not in read_recipe("w4a8-rtn").to_json()


@pytest.mark.parametrize("columns", [1, 6])
def test_inputs_stand_on_grids_shifted_by_channel(given, columns):  # noqa: F811
    """Against NumPy, with as many channels as neither samples nor tokens."""
    model, calibration = given
    rng = np.random.default_rng(0)
    shift, x = rng.normal(size=(1, columns)), rng.normal(size=(3, 4, 6)).astype(np.float32)
    timesteps = np.array([500.0], np.float32)
    grid = TimestepGrid(timesteps, GridRows.of([4], np.array([0.25]), shift))
    table = ActivationTable(timesteps, {"layer": grid})
    found = Tuner(model.kept, {}, table, calibration.images, [0], Tuning())._grids(500.0)["layer"]
    wanted = np.clip(np.rint((x - shift) / 0.25), -8, 7) * 0.25 + shift
    assert np.abs(np.array(found(mx.array(x))) - wanted).max() < 1e-5
