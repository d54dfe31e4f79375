"""Gradients against finite differences and closed forms, noise against Euler's steps by hand, and the stored file."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import ImageRecipe, collect_images, parts_of, read_images, replay
from ditq.capture import swapped
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.diagnostics import DamageRecipe, damage_cost, measure_damage, read_damage, write_damage
from ditq.diagnostics.collect import observed_inputs
from ditq.diagnostics.remaining import NoiseRuns
from ditq.diagnostics.sensitivity import Shifted, squared_gradients
from ditq.sampling.generate import settings_for
from tests.diagnostics.linear import FACTOR, Linear, rotation
from tests.diagnostics.toy import Toy

RECIPE = DamageRecipe(num_images=2, stride=2, noise_steps=2)
GUIDED = 3.0**2 + (1 - 3.0) ** 2
"""What guidance 3 makes of an independent error of both rows."""


def recorded(model, folder):
    collect_images(model, ["one", "three"], ImageRecipe(2, seed=3), settings_for(model), folder)
    return read_images(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return recorded(Toy(), tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return recorded(Linear(), tmp_path_factory.mktemp("straight"))


@pytest.mark.parametrize("source", ["parts.0.fc1", "parts.1.conv"])
def test_gradients_are_finite_differences(pictures, source):
    network, step, seed = Toy().network(), 1, 7
    layers = observed_inputs(network, "all")
    found = squared_gradients(network, pictures, [0], step, layers, seed)[source]
    signs = np.random.default_rng(seed).choice(np.float32([-1, 1]), (1, 8, 8, 4))
    shape, differences = (2, 4, 4, 8), np.zeros((2, 4, 4, 8))
    added, modules = {}, network.anatomy.modules(network)
    own = {path: Shifted(modules[path], source, added) for path, s in layers.items() if s == source}
    with swapped(network, own):
        for place in np.ndindex(*shape):
            ends = []
            for sign in (1, -1):
                change = np.zeros(shape, np.float32)
                change[place] = sign * 0.05
                added[source] = mx.array(change)
                prompt, negative = np.array(replay(network, pictures, [0], step), np.float64)
                ends.append(float((signs[0] * (negative + 3 * (prompt - negative))).sum()))
            differences[place] = (ends[0] - ends[1]) / 0.1
    wanted = np.square(differences).sum(axis=(0, 1, 2)) / signs.size
    np.testing.assert_allclose(found, wanted, rtol=0.02)


def test_gradients_of_two_linear_layers_are_those_of_their_weights(straight):
    network = Linear().network()
    layers = observed_inputs(network, "all")
    found = [squared_gradients(network, straight, [0, 1], 1, layers, seed) for seed in range(60)]
    # d v / d x of the first layer's input is FACTOR times the identity: the signs' squares are 1
    np.testing.assert_allclose(found[0]["parts.0.one"], np.full(4, GUIDED * FACTOR**2 / 4), rtol=1e-4)
    second = np.mean([one["parts.0.two"] for one in found], axis=0)
    wanted = GUIDED * np.square(FACTOR * rotation().T).sum(axis=0) / 4
    np.testing.assert_allclose(second, wanted, rtol=0.05)


@pytest.mark.parametrize("step", [0, 2, 3])
def test_what_is_left_of_noise_follows_from_eulers_steps(straight, step):
    falls = np.diff(straight.manifest["sigmas"])
    left = falls[step] * np.prod(1 + falls[step + 1 :] * FACTOR)
    runs = NoiseRuns(Linear(), straight, [0, 1])
    assert runs.remaining(step, 0.05, 1) == pytest.approx(left**2, rel=1e-3)


def test_samplers_that_look_ahead_are_disturbed_in_the_same_place(pictures):
    for sampler in ("pndm", "dpm++2m"):
        other = replace(pictures, manifest={**pictures.manifest, "sampler": sampler})
        assert 0 < NoiseRuns(Toy(), other, [0]).remaining(1, 0.05, 1) < 10


def test_an_interrupted_measurement_goes_on_to_the_same_file(pictures, tmp_path):
    whole, broken = tmp_path / "whole.npz", tmp_path / "broken.npz"
    told = []
    damage = measure_damage(Toy(), pictures, RECIPE, whole, on_passes=told.append)
    assert sum(told) == RECIPE.passes(pictures) and not parts_of(whole).exists()

    def stop(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_damage(Toy(), pictures, RECIPE, broken, on_passes=stop)
    assert [path.name for path in sorted(parts_of(broken).iterdir())] == ["plan.json", "step_0.npz"]
    (parts_of(broken) / "step_2.npz").write_bytes(b"cut off")
    with pytest.raises(UserError, match="stride: got 1; expected 2 as in the earlier run"):
        measure_damage(Toy(), pictures, replace(RECIPE, stride=1), broken, resume=True)
    measure_damage(Toy(), pictures, RECIPE, broken, resume=True)
    assert whole.read_bytes() == broken.read_bytes()
    read = read_damage(whole)
    assert read.digest == damage.digest and read.steps.tolist() == [0, 2]
    assert measure_damage(Toy(), pictures, RECIPE, whole, resume=True).digest == damage.digest
    cost = damage_cost(Toy(), pictures, RECIPE)
    assert cost.rows == (2 if pictures.guided else 1) * RECIPE.passes(pictures)
    assert cost.bytes > sum(array.nbytes for array in damage.squares.values())


def test_importance_is_gradient_times_what_is_left_times_steps(pictures, tmp_path):
    damage = measure_damage(Toy(), pictures, RECIPE, tmp_path / "damage.npz")
    at = np.array([1000.0, 500.0, 260.0])  # the trajectory has 1000, 750, 500, 250
    left = damage.remaining
    np.testing.assert_allclose(damage.left(at[:2]), [left[0], left[0] ** (1 / 3) * left[1] ** (2 / 3)])
    found = damage.importance("parts.0.fc1", at)
    squares = damage.squares["parts.0.fc1"]
    np.testing.assert_allclose(found[1], 4 / 3 * damage.left(at)[1] * squares[1])
    np.testing.assert_allclose(found[0], 4 / 3 * left[0] * squares[0])


def test_files_that_cannot_be_are_refused(pictures, tmp_path):
    path = tmp_path / "damage.npz"
    write_damage(path, measure_damage(Toy(), pictures, RECIPE, tmp_path / "made.npz"))
    arrays = read_npz(path)
    for change, message in (
        ({"remaining": -arrays["remaining"]}, "remaining: got -.*; expected squares"),
        ({"steps": np.array([0, 9])}, "steps: got .*; expected rising numbers from 0 to 3"),
        ({"parts.0.fc1::squares": np.zeros((3, 8))}, r"parts.0.fc1::squares: got float64\(3, 8\)"),
        ({"remaining": np.ones(3)}, r"remaining: got float64\(3,\)"),
        ({"__meta__": np.array("{}")}, "ditq.damage version 1"),
    ):
        write_npz(path, {**arrays, **change})
        with pytest.raises(UserError, match=message):
            read_damage(path)
    write_npz(path, {name: array for name, array in arrays.items() if name != "noise_steps"})
    with pytest.raises(UserError, match="no noise_steps"):
        read_damage(path)
    with pytest.raises(UserError, match="--amplitude: got 0; expected above 0"):
        DamageRecipe(amplitude=0)
    with pytest.raises(UserError, match="--stride: got 0; expected at least 1"):
        DamageRecipe(stride=0)
