"""Step 2W without a model: which samples are cached, in which batches, how large they are, and what is missing."""

import numpy as np
import pytest

from ditq.calibration.block_caching import CacheRecipe, batches, sample_bytes, unfinished
from ditq.calibration.prompt_choice import spread_images
from ditq.core.errors import UserError
from ditq.core.files import write_npz


def test_pictures_are_spread_evenly_and_prefer_new_prompts():
    assert spread_images([f"prompt {i}" for i in range(10)], 5) == [0, 2, 4, 6, 8]
    assert spread_images(["a", "b", "a", "b"], 2) == [0, 3]
    with pytest.raises(UserError, match="--num-images: got 3; expected at most 2"):
        spread_images(["a", "b"], 3)


def test_the_documented_amounts_are_the_default():
    recipe = CacheRecipe()
    assert (recipe.num_images, recipe.stride, recipe.storage_dtype) == (5, 5, "float16")
    for wrong in ({"num_images": 0}, {"stride": 0}, {"batch_size": 0}, {"storage_dtype": "int8"}):
        with pytest.raises(UserError, match="^--"):
            CacheRecipe(**wrong)


META = {
    "samples": [(image, step) for image in (0, 2, 4) for step in (0, 5)],
    "batch_size": 2,
    "storage_dtype": "float16",
    "rows_per_sample": 2,
    "given_by": ["pooled"],
    "states": [{"image": (64, 192), "text": (8, 192)}, {"image": (64, 192)}],
}


def test_a_batch_holds_pictures_of_one_step():
    assert batches(META) == [[(0, 0), (2, 0)], [(4, 0)], [(0, 5), (2, 5)], [(4, 5)]]
    assert sorted(sample for batch in batches(META) for sample in batch) == sorted(META["samples"])


def test_a_sample_takes_two_bytes_a_value_and_two_rows_with_guidance():
    assert sample_bytes(META) == 2 * 2 * (64 + 8 + 64) * 192


def test_a_batch_with_a_missing_sample_is_run_again_as_a_whole(tmp_path):
    assert unfinished(tmp_path, META) == batches(META)
    for image, step in META["samples"]:
        facts = {"timestep": np.array(500, np.float32), "sigma": np.array(0.5, np.float32)}
        place = {"step_index": np.array(step), "image_id": np.array(image)}
        pooled = np.zeros((2, 128), np.float32)
        write_npz(tmp_path / f"{image:04d}_{step:03d}.npz", {**facts, **place, "pooled": pooled})
    assert unfinished(tmp_path, META) == []
    (tmp_path / "0002_005.npz").unlink()
    assert unfinished(tmp_path, META) == [[(0, 5), (2, 5)]]
