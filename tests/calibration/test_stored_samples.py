"""A stored sample is held against its manifest, and `--resume` makes again what is lost, equal to the bit."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import ImageRecipe, check_network, collect_images, manifest, read_images
from ditq.cli import values
from ditq.core import files
from ditq.core.errors import UserError
from ditq.core.files import read_json, read_npz, write_json, write_npz
from ditq.sampling.generate import settings_for
from tests.calibration.test_block_cache import same_files
from tests.sampling.test_generate import Small

PROMPTS = ["one", "two"]
RECIPE = ImageRecipe(num_images=3, batch_size=2)


def collect(folder, resume=False, model=None):
    model = model or Small()
    return collect_images(model, PROMPTS, RECIPE, settings_for(model, steps=3, guidance=3.0), folder, resume)


@pytest.fixture
def folder(tmp_path):
    collect(tmp_path / "data")
    return tmp_path / "data"


def changed(path, **arrays):
    """Rewrites a sample with some arrays in place of its own; None: without them."""
    kept = {**read_npz(path), **arrays}
    write_npz(path, {name: array for name, array in kept.items() if array is not None})


NAN = np.full((1, 8, 8, 16), np.nan, np.float16)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": None}, "0001_002.npz: got no x; expected x, timestep"),
        ({"x": NAN}, "0001_002.npz: x: got 1,024 of 1,024 values that are not finite"),
        ({"x": np.zeros((1, 4, 4, 16), np.float16)}, r"0001_002.npz: x: got float16\(1, 4, 4, 16\); expected float16"),
        ({"x": np.zeros((1, 8, 8, 4), np.float16)}, r"expected float16\(1, 8, 8, 16\) as in .*network.json"),
        ({"x": np.zeros((8, 8, 16), np.float16)}, r"x: got float16\(8, 8, 16\)"),
        ({"x": np.zeros((1, 8, 8, 16), np.float32)}, "x: got float32"),
        ({"x": np.zeros((1, 8, 8, 16), np.int8)}, "x: got int8"),
        ({"image_id": np.int32(0)}, "0001_002.npz: image_id: got 0; expected 1 as the file is called"),
        ({"step_index": np.int32(1)}, "step_index: got 1; expected 2"),
        ({"step_index": np.zeros(2, np.int32)}, "step_index: got int32"),
        ({"image_id": np.float32(1)}, "image_id: got float32"),
        ({"sigma": np.float32(0.9)}, "sigma: got 0.9; expected .* as in the manifest at step 2"),
        ({"timestep": np.float32(np.nan)}, "timestep: got 1 of 1 values that are not finite"),
        ({"x": np.zeros((1, 8, 8, 16), np.float16)}, "0001_002.npz: x: got other values than were recorded"),
    ],
)  # fmt: skip
def test_what_a_sample_must_not_be_is_told_with_its_file(folder, arrays, message):
    path = folder / "samples" / "0001_002.npz"
    changed(path, **arrays)
    with pytest.raises(UserError, match=message) as caught:
        read_images(folder).latents([0, 1], 2)
    assert "generate_calibration_data --resume" in str(caught.value)
    whole = path.read_bytes()
    assert collect(folder, resume=True) == 2
    assert read_images(folder).latents([0, 1], 2).shape == (2, 8, 8, 16) and path.read_bytes() != whole


def test_older_folders_are_held_against_the_pictures_sides_and_each_other(folder):
    (folder / "network.json").unlink()
    (folder / "digests.json").unlink()
    images = read_images(folder)
    assert images.drawn_by is None and images.latents([0, 1, 2], 1).shape == (3, 8, 8, 16)
    changed(folder / "samples" / "0001_001.npz", x=np.zeros((1, 8, 4, 16), np.float16))
    with pytest.raises(UserError, match=r"x: got shape \(1, 8, 4, 16\); expected latents of 64 x 64 pixels"):
        images.latents([0, 1], 1)
    changed(folder / "samples" / "0001_001.npz", x=np.zeros((1, 4, 4, 16), np.float16))
    with pytest.raises(UserError, match=r"0001_001.npz: x: got shape .*; expected .* as of image 0"):
        images.latents([0, 1], 1)
    check_network(images, Small().network())


@pytest.mark.parametrize(
    "lost",
    [
        "samples/0000_001.npz",
        "samples/0002_002.npz",
        "latents/0001.npy",
        "images/0001.png",
        "conditioning.npz",
    ],
)
@pytest.mark.parametrize("cut", [False, True])
def test_what_is_lost_or_cut_off_is_made_again_equal_to_the_bit(folder, tmp_path, lost, cut):
    collect(tmp_path / "whole")
    path = folder / lost
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2]) if cut else path.unlink()
    again = collect(folder, resume=True)
    assert again == {"0": 2, "c": 0}.get(path.name[0], 2) or (path.name[3] == "2" and again == 1)
    assert path.read_bytes() == data
    same_files(folder, tmp_path / "whole")
    assert collect(folder, resume=True) == 0


def test_another_network_is_told_with_both_digests(folder):
    other = Small()
    network = other.network()
    other.network = lambda: network
    network.x_embedder.proj.weight = network.x_embedder.proj.weight * 1.01
    mx.eval(network.parameters())
    known = read_json(folder / "network.json")["weights"]
    with pytest.raises(
        UserError, match=f"network.json: made with another.*weights {known}; expected [0-9a-f]{{16}} "
    ):
        collect(folder, resume=True, model=other)
    with pytest.raises(UserError, match="--model-path"):
        check_network(read_images(folder), network)
    check_network(read_images(folder), Small().network())
    (folder / "network.json").unlink()  # as older releases left it
    assert collect(folder, resume=True, model=other) == 0 and not (folder / "network.json").exists()


def test_the_version_that_began_a_folder_does_not_count(folder):
    path = folder / "manifest.json"
    write_json(path, {**read_json(path), "producer": "ditq 0.0.1"})
    digest = read_images(folder).digest
    assert collect(folder, resume=True) == 0 and read_images(folder).digest == digest


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prompts", "one", "manifest.json: prompts: got 'one'; expected a list of texts"),
        ("prompts", ["one"], "manifest.json: prompts: got 1 entries; expected 3, as its num_images say"),
        ("sigmas", [1.0, 0.0], "manifest.json: sigmas: got 2 entries; expected 4, as its num_steps say"),
        ("sigmas", None, "manifest.json: sigmas: got null"),
        ("height", 64.0, "manifest.json: height: got 64.0; expected a whole number"),
        ("cfg_weight", "3", "manifest.json: cfg_weight: got '3'; expected a finite number"),
        ("noise", "pink", "manifest.json: noise: got pink; expected"),
        ("cfg_weight", -1, "manifest.json: cfg_weight: got -1; expected a finite number from 0 to 1000"),
        ("cfg_weight", 1e9, "manifest.json: cfg_weight: got 1000000000.0"),
        ("shift", 0, "manifest.json: shift: got 0; expected a finite number from 0.001 to 1000"),
        ("batch_size", 0, "manifest.json: batch_size: got 0"),
        ("seed", -1, "manifest.json: seed: got -1"),
        ("seed", 1, r"manifest.json: seeds\[0\]: got 0; expected 1: the seeds count up from 1"),
        ("seeds", [0, 0, 1], r"manifest.json: seeds\[1\]: got 0; expected 1"),
        ("schedule", "x", "manifest.json: schedule: got 'x'; expected uniform or diffusionkit"),
        ("sampler", "x", "manifest.json: sampler: got 'x'; expected euler"),
        (
            "shift",
            1,
            r"manifest.json: sigmas\[1\]: got .*; expected .* schedule uniform, shift 1 and num_steps",
        ),
        ("sigmas", [1.0, 0.8, 0.6, 0.0], r"manifest.json: sigmas\[1\]: got 0.8; expected 0.857"),
    ],
)
def test_a_manifest_is_held_against_its_shape(folder, field, value, message):
    path = folder / "manifest.json"
    write_json(path, {**files.read_json(path), field: value})
    with pytest.raises(UserError, match=message):
        read_images(folder)


def test_conditioning_is_held_against_its_tokens(folder):
    path = folder / "conditioning.npz"
    whole = read_npz(path)
    for arrays, message in (
        ({"tokens": np.full_like(whole["tokens"], np.nan)}, "conditioning.npz: tokens: got .* not finite"),
        ({"pooled": whole["pooled"][:2]}, "conditioning.npz: pooled: got 2 rows; expected 3 as tokens has"),
        ({"pooled": whole["pooled"].astype(np.float64)}, "conditioning.npz: pooled: got float64"),
    ):
        write_npz(path, {**whole, **arrays})
        with pytest.raises(UserError, match=message):
            read_images(folder)


def swapped(array):
    return array[[1, 0, *range(2, len(array))]]


@pytest.mark.parametrize("change", [lambda a: a * 10, swapped])
def test_other_conditioning_is_told_and_made_again(folder, change):
    path = folder / "conditioning.npz"
    data, whole = path.read_bytes(), read_npz(path)
    write_npz(path, {**whole, "tokens": change(whole["tokens"]).astype(np.float32)})
    with pytest.raises(UserError, match="conditioning.npz: got other values than were recorded.*--resume"):
        read_images(folder)
    assert collect(folder, resume=True) == 0 and path.read_bytes() == data
    read_images(folder)


@pytest.mark.parametrize("factor", [0, 100])
def test_other_samples_are_told_unless_an_older_release_wrote_them(folder, factor):
    path = folder / "samples" / "0001_001.npz"
    x = read_npz(path)["x"]
    changed(path, x=(x * np.float32(factor)).astype(np.float16))
    with pytest.raises(UserError, match="0001_001.npz: x: got other values .* as in digests.json; remove"):
        read_images(folder).latents([1], 1)
    digests = read_json(folder / "digests.json")
    write_json(folder / "digests.json", {**digests, "samples": {"0": digests["samples"]["0"]}})
    assert read_images(folder).latents([1], 1).shape == x.shape
    write_json(folder / "digests.json", {**digests, "samples": {"0": "x"}})
    with pytest.raises(UserError, match="digests.json: samples: 0: got 'x'; expected a list of texts"):
        read_images(folder)


def test_settings_that_could_not_be_read_are_refused_before_anything_is_drawn(tmp_path):
    model = Small()
    recipe = ImageRecipe(num_images=1, seed=-1)
    with pytest.raises(UserError, match=r"seeds\[0\]: got -1"):
        collect_images(model, PROMPTS, recipe, settings_for(model, steps=3), tmp_path / "data")
    assert not model.loads and not (tmp_path / "data").exists()


def test_manifests_have_the_bounds_of_the_flags():
    names = {name: f"--{name.replace('_', '-')}" for name in manifest.BOUNDS}
    assert {names[name]: manifest.BOUNDS[name] for name in names} == {
        flag: values.BOUNDS.get(flag, (1, values.MOST)) for flag in names.values()
    } | {"--num-steps": values.BOUNDS["--steps"]}
