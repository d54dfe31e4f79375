"""The recorder against a plain loop; the arithmetic, the shuffle and the resumption of Phase 1."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import (
    ImageRecipe,
    PointRecipe,
    collect_images,
    collect_points,
    default_prompts,
    parts_of,
    read_points,
    selected_steps,
)
from ditq.calibration import point_collection as collect_module
from ditq.core import files
from ditq.core.errors import UserError
from ditq.sampling.generate import settings_for
from ditq.sampling.guidance import Denoiser
from ditq.sampling.steppers import noise
from tests.sampling.test_generate import Small

PROMPTS = ["one", "two", "three"]
RECIPE = PointRecipe(trajectories=5, steps=6, selected=3, cfg_scale=1.5, latent_size=8, seed=11)


def test_paper_recipe_is_6400_points():
    recipe = PointRecipe()
    assert (recipe.trajectories, recipe.steps, recipe.selected, recipe.points) == (256, 100, 25, 6400)
    assert recipe.keep[0] == 0 and recipe.keep[-1] == 99
    assert set(np.diff(recipe.keep)) == {4, 5}


@pytest.mark.parametrize(("steps", "selected"), [(1, 1), (7, 7), (100, 1), (5, 2)])
def test_selected_steps_are_distinct_and_within(steps, selected):
    keep = selected_steps(steps, selected)
    assert len(set(keep.tolist())) == selected and keep.min() >= 0 and keep.max() < steps


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"selected": 7}, "selected steps: got 7; expected from 1 to the 6 sampling steps"),
        ({"selected": 0}, "selected steps: got 0"),
        ({"steps": 0}, "sampling steps: got 0"),
        ({"trajectories": 0}, "trajectories: got 0"),
        ({"batch_size": 0}, "batch size: got 0"),
    ],
)
def test_impossible_recipes_are_explained(fields, message):
    with pytest.raises(UserError) as caught:
        PointRecipe(**{"steps": 6, "selected": 3, **fields})
    assert message in str(caught.value)


def plain_trajectory(model: Small, prompt: str, seed: int, recipe: PointRecipe) -> list[np.ndarray]:
    """Every x that the model saw, by the shortest loop there is."""
    settings = recipe.settings(model)
    conditioning = model.encode([prompt, ""])
    denoise = Denoiser(model.network()).run(
        conditioning[:1], conditioning[1:], settings.sigmas, settings.guidance
    )
    x, seen = noise([seed], 8, 8, 16), []
    for step in range(recipe.steps):
        seen.append(np.array(x[0]))
        x = x + float(settings.sigmas[step + 1] - settings.sigmas[step]) * denoise(x, step)
    return seen


def test_points_equal_a_plain_loop_bit_for_bit(tmp_path):
    points = collect_points(Small(), PROMPTS, RECIPE, tmp_path / "points.npz")
    sigmas = RECIPE.settings(Small()).sigmas
    assert len(points) == 15 and points.xs.dtype == np.float16
    for i in range(len(points)):
        trajectory, step = int(points.trajectory_indices[i]), int(points.step_indices[i])
        wanted = plain_trajectory(Small(), PROMPTS[trajectory % 3], 11 + trajectory, RECIPE)[step]
        assert np.array_equal(points.xs[i], wanted.astype(np.float16))
        assert points.ts[i] == np.float32(1000 * sigmas[step])
        assert points.prompt_indices[i] == trajectory % 3


def test_every_point_appears_once_in_the_order_of_the_seeds_shuffle(tmp_path):
    points = collect_points(Small(), PROMPTS, RECIPE, tmp_path / "points.npz")
    order = np.random.default_rng(11).permutation(15)
    assert np.array_equal(points.trajectory_indices, order // 3)
    assert np.array_equal(points.step_indices, np.array([0, 2, 5])[order % 3])


def test_file_holds_what_the_documents_name(tmp_path):
    path = tmp_path / "points.npz"
    collect_points(Small(), PROMPTS, RECIPE, path)
    with np.load(path, allow_pickle=False) as file:
        assert file["xs"].shape == (15, 8, 8, 16) and file["ts"].shape == (15,)
        assert file["cs"].shape == (3, 2, 7, 40) and file["cs_pooled"].shape == (3, 2, 48)
        assert file["prompts"].tolist() == PROMPTS and file["cfg_scale"] == np.float32(1.5)
        encoded = Small().encode([*PROMPTS, ""])
        assert np.array_equal(file["cs"][:, 0], np.array(encoded.tokens[:3]))
        assert np.array_equal(file["cs"][1, 1], np.array(encoded.tokens[3]))
    points = read_points(path)
    assert points.meta["model"] == "small" and points.meta["steps"] == 6
    assert mx.array_equal(points.conditioning(2).tokens[0], encoded.tokens[2])


@pytest.mark.parametrize("batch_size", [2, 5])
def test_batches_change_no_more_than_rounding(tmp_path, batch_size):
    alone = collect_points(Small(), PROMPTS, RECIPE, tmp_path / "alone.npz")
    recipe = PointRecipe(**{**vars(RECIPE), "batch_size": batch_size})
    together = collect_points(Small(), PROMPTS, recipe, tmp_path / "together.npz")
    assert np.array_equal(alone.step_indices, together.step_indices)
    difference = np.abs(alone.xs.astype(np.float32) - together.xs.astype(np.float32))
    assert difference.max() <= 4e-3  # one float16 step at 4


@pytest.mark.parametrize("killed_after", [0, 1, 3])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_interrupted_run_resumes_to_the_identical_file(tmp_path, monkeypatch, killed_after, batch_size):
    recipe = PointRecipe(**{**vars(RECIPE), "batch_size": batch_size})
    collect_points(Small(), PROMPTS, recipe, tmp_path / "whole.npz")
    written, write = [], files.write_npz

    def interrupted(path, arrays):
        if len(written) == killed_after:
            raise KeyboardInterrupt
        written.append(path)
        write(path, arrays)

    path = tmp_path / "resumed.npz"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(collect_module, "write_npz", interrupted)
        collect_points(Small(), PROMPTS, recipe, path)
    assert not path.exists()
    with pytest.raises(UserError, match="earlier run; use --resume"):
        collect_points(Small(), PROMPTS, recipe, path)
    with pytest.raises(UserError, match="seed: got 12; expected 11 as in the earlier run"):
        collect_points(Small(), PROMPTS, PointRecipe(**{**vars(recipe), "seed": 12}), path, resume=True)
    with pytest.raises(UserError, match="prompts"):
        collect_points(Small(), PROMPTS[:2], recipe, path, resume=True)
    steps: list[int] = []
    collect_points(Small(), PROMPTS, recipe, path, resume=True, on_step=steps.append)
    assert path.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert not parts_of(path).exists()
    complete = killed_after // batch_size * batch_size
    assert steps[0] == complete * 6


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", xs=np.zeros((2, 8, 8, 16)))
    with pytest.raises(UserError, match="got no ts, prompt_indices"):
        read_points(tmp_path / "other.npz")
    path = tmp_path / "points.npz"
    collect_points(Small(), PROMPTS, RECIPE, path)
    arrays = files.read_npz(path)
    for change, message in [
        ({"ts": arrays["ts"][:-1]}, "xs float16"),
        ({"prompt_indices": arrays["prompt_indices"] + np.int32(5)}, "prompt index 7; expected below 3"),
        ({"xs": arrays["xs"].astype(np.float32)}, "xs float32"),
        ({"__meta__": np.array('{"kind": "other", "version": 1}')}, "other version 1"),
    ]:
        files.write_npz(tmp_path / "bad.npz", {**arrays, **change})
        with pytest.raises(UserError, match=message.replace("(", r"\(")):
            read_points(tmp_path / "bad.npz")


def collected_images(folder, resume=False, **fields) -> int:
    model = Small()
    settings = settings_for(model, steps=4, guidance=7.5)
    return collect_images(
        model, PROMPTS, ImageRecipe(**{"num_images": 4, "seed": 3, **fields}), settings, folder, resume
    )


def test_image_folder_holds_every_latent_that_the_model_saw(tmp_path):
    assert collected_images(tmp_path) == 4
    manifest = files.read_json(tmp_path / "manifest.json")
    assert manifest["prompts"] == ["one", "two", "three", "one"] and manifest["seeds"] == [3, 4, 5, 6]
    assert manifest["cfg_weight"] == 7.5 and manifest["num_steps"] == 4
    recipe = PointRecipe(trajectories=1, steps=4, selected=4, cfg_scale=7.5, latent_size=8)
    wanted = plain_trajectory(Small(), "two", 4, recipe)
    for step, sigma in enumerate(manifest["sigmas"][:-1]):
        with np.load(tmp_path / "samples" / f"0001_{step:03d}.npz", allow_pickle=False) as sample:
            assert sample["x"].shape == (1, 8, 8, 16)
            assert np.array_equal(sample["x"][0], wanted[step].astype(np.float16))
            assert sample["sigma"] == np.float32(sigma) and sample["timestep"] == np.float32(
                1000
            ) * np.float32(sigma)
            assert (sample["step_index"], sample["image_id"]) == (step, 1)
    assert np.load(tmp_path / "latents" / "0003.npy").shape == (8, 8, 16)
    assert files.read_image(tmp_path / "images" / "0003.png")[0].shape == (64, 64, 3)
    with np.load(tmp_path / "conditioning.npz") as conditioning:
        assert np.array_equal(conditioning["tokens"], np.array(Small().encode([*PROMPTS, ""]).tokens))


def test_image_folder_resumes_to_identical_files(tmp_path):
    collected_images(tmp_path / "whole")
    collected_images(tmp_path / "resumed")
    (tmp_path / "resumed" / "images" / "0002.png").unlink()
    (tmp_path / "resumed" / "samples" / "0002_001.npz").unlink()
    with pytest.raises(UserError, match="earlier run"):
        collected_images(tmp_path / "resumed")
    with pytest.raises(UserError, match="num_images: got 9; expected 4"):
        collected_images(tmp_path / "resumed", resume=True, num_images=9)
    assert collected_images(tmp_path / "resumed", resume=True) == 1
    files = sorted(
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()
    )
    assert len(files) == 4 + 4 * 4 + 4 + 4
    for file in files:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "resumed" / file).read_bytes()


@pytest.mark.parametrize(("name", "count"), [("mini", 64), ("sd3-medium", 20)])
def test_default_prompts_are_distinct(name, count):
    prompts = default_prompts(name)
    assert len(prompts) == len(set(prompts)) == count
