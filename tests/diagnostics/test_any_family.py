"""A model with convolutions and shared inputs is observed like any other: against plain NumPy, sample by sample."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.calibration import ImageRecipe, PointRecipe, collect_images, collect_points, read_images, replay
from ditq.capture import traced
from ditq.core.errors import DitqError
from ditq.diagnostics import (
    InputRecipe,
    ProfileRecipe,
    collect_forecast,
    collect_inputs,
    profile,
    profile_forecast,
    read_layer_statistics,
    read_statistics,
)
from ditq.diagnostics.layer_files import MANIFEST
from ditq.sampling.generate import settings_for
from tests.diagnostics.toy import Toy, ToyNetwork

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    recipe = PointRecipe(2, 4, 2, 1.5, latent_size=8, seed=1, batch_size=2)
    return collect_points(Toy(), ["one", "three"], recipe, tmp_path_factory.mktemp("points") / "points.npz")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("pictures"), Toy()
    recipe = ImageRecipe(3, seed=3, batch_size=2)
    collect_images(model, ["one", "three"], recipe, settings_for(model, steps=2), folder)
    return read_images(folder)


def test_profile_counts_pixels_and_runs_once_a_prompt(points, tmp_path):
    found = profile(Toy(), points, ProfileRecipe(batch_size=2, inputs="all"), tmp_path / "stats.npz")
    network, kept = Toy().network(), {}
    for row in range(len(points)):
        conditioning = points.conditioning(int(points.prompt_indices[row]))
        for i in (0, 1):

            def keep(path, x, t=float(points.ts[row])):
                kept.setdefault((path, t), []).append(np.array(x).reshape(-1, x.shape[-1]))

            with traced(network, network.anatomy.paths(), keep):
                inputs = network.prepare(conditioning[i : i + 1], mx.array(points.ts[row : row + 1])).at(0)
                mx.eval(network(mx.array(points.xs[row : row + 1]).astype(mx.float32), **inputs))
    assert {path for path, _ in kept} == set(found.layers) and len(found.layers) == 12
    for (path, t), arrays in kept.items():
        x = np.concatenate(arrays[::2] if path == "time" else arrays)  # both guidance rows share the timestep
        part = found.layers[path][t]
        assert part.count == len(x), path
        np.testing.assert_allclose(part.mean, x.mean(axis=0, dtype=np.float64), **CLOSE)
        np.testing.assert_allclose(part.maximum, x.max(axis=0), **CLOSE)
    weight = np.array(network.parts[0].conv.weight)
    np.testing.assert_array_equal(found.weights["parts.0.conv"][0], weight.min(axis=(0, 1, 2)))
    read = read_statistics(tmp_path / "stats.npz")
    assert read.names == found.names and read.names["parts.1.fc2"] == ("toy_1.fc2", "pixels")


def test_collected_inputs_of_convolutions_are_their_pixels(pictures, tmp_path):
    manifest = collect_inputs(Toy(), pictures, InputRecipe(3, 1, 2, sample_values=100), tmp_path)
    statistics, network = read_layer_statistics(tmp_path / MANIFEST), Toy().network()
    entry = manifest["layers"]["parts.1.gate"]
    assert entry == {
        "input": "parts.1.fc1", "channels": 8, "label": "toy_1.gate", "stream": "pixels", "role": "projection",
        "post_gelu": False, "foldable": False,
    }  # fmt: skip
    assert (
        statistics.groups["parts.0.fc1"] == ["parts.0.fc1", "parts.0.gate"]
        and "stem" not in manifest["layers"]
    )
    kept: dict[str, list[np.ndarray]] = {}
    for image in range(3):
        with traced(
            network, list(manifest["layers"]), lambda p, x: kept.setdefault(p, []).append(np.array(x))
        ):
            mx.eval(replay(network, pictures, [image], 1))
    found = statistics.at(1)
    for path, source in statistics.layers.items():
        images = [x.reshape(-1, x.shape[-1]) for x in kept[path]]
        assert found[source].count == sum(map(len, images)) == 3 * 2 * 16
        np.testing.assert_allclose(found[source].abs_max, np.concatenate(images).max(axis=0), **CLOSE)
        np.testing.assert_allclose(
            found[source].avg_min, np.mean([x.min(axis=0) for x in images], axis=0), **CLOSE
        )
        assert (found[source].shift is not None) == path.endswith("fc2")
    conv, fc1, gate = (np.array(getattr(network.parts[0], name).weight) for name in ("conv", "fc1", "gate"))
    np.testing.assert_allclose(
        found["parts.0.conv"].column_norms, np.square(conv).sum(axis=(0, 1, 2)), **CLOSE
    )
    norms = np.square(fc1).sum(axis=0) + np.square(gate).sum(axis=0)
    np.testing.assert_allclose(found["parts.0.fc1"].column_norms, norms, **CLOSE)
    assert statistics.timesteps.tolist() == [1000.0, 500.0]


def test_forecasts_count_the_layers_of_the_anatomy(points, pictures):
    told, cost = profile_forecast(Toy(), points, ProfileRecipe(inputs="all"))
    assert cost.rows > 0
    assert "would run 4 of 4 points and observe 12 layers x 2 timesteps" in told
    told = collect_forecast(Toy(), pictures, InputRecipe(5, 1))
    assert str(told) == "would replay 3 pictures x 2 steps and observe 6 inputs of 8 layers"


def test_a_layer_that_the_anatomy_does_not_know_is_named(points, pictures, tmp_path):
    model, network = Toy(), ToyNetwork()
    network.parts[1].extra = nn.Linear(3, 3)
    model.network = lambda: network
    with pytest.raises(DitqError, match=r"parts\.1\.extra: not in the anatomy of toy"):
        profile(model, points, ProfileRecipe(), tmp_path / "stats.npz")
    with pytest.raises(DitqError, match=r"parts\.1\.extra: not in the anatomy of toy"):
        collect_inputs(model, pictures, InputRecipe(), tmp_path / "inputs")
    assert not list(tmp_path.iterdir())


def test_another_noise_process_gives_its_own_timesteps(pictures, tmp_path):
    collect_inputs(Toy(), pictures, InputRecipe(1, 1, sample_values=8), tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert "noise" not in manifest
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "noise": "ddpm-linear"}))
    found = read_layer_statistics(tmp_path / MANIFEST)
    assert found.timesteps.tolist() == found.noise.timesteps(np.array([1.0, 0.5])).astype(np.float32).tolist()
    assert found.timesteps[0] == 999
