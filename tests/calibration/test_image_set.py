"""Calibration pictures are replayed with the conditioning that they were drawn with."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import ImageRecipe, collect_images, read_images, replay
from ditq.core import files
from ditq.core.errors import UserError
from ditq.sampling.generate import settings_for
from ditq.sampling.guidance import Denoiser
from tests.sampling.test_generate import Small


def collected(folder, prompts, num_images=5):
    model = Small()
    settings = settings_for(model, steps=3, guidance=7.5)
    collect_images(model, prompts, ImageRecipe(num_images=num_images), settings, folder)
    return model, settings, read_images(folder)


@pytest.mark.parametrize(
    "prompts", [["one", "two", "three"], ["one", "two", "one"], ["one"], list("abcdefg")]
)
def test_replay_is_the_velocity_of_the_recorded_run(tmp_path, prompts):
    model, settings, images = collected(tmp_path, prompts)
    mmdit = model.network()
    for image in range(5):
        conditioning = model.encode([prompts[image % len(prompts)], ""])
        denoise = Denoiser(mmdit).run(conditioning[:1], conditioning[1:], settings.sigmas, settings.guidance)
        wanted = denoise(mx.array(images.latents([image], 1)), 1)
        prompt, negative = mx.split(replay(mmdit, images, [image], 1), 2)
        assert mx.abs(negative + 7.5 * (prompt - negative) - wanted).max().item() < 1e-4


def test_conditioning_of_other_pictures_is_refused(tmp_path):
    _, _, images = collected(tmp_path, ["one", "two", "three"])
    for rows in (1, 3, 7):
        arrays = {name: np.array(array) for name, array in images.prompts.arrays.items()}
        changed = {name: np.resize(array, (rows, *array.shape[1:])) for name, array in arrays.items()}
        files.write_npz(tmp_path / "conditioning.npz", changed)
        with pytest.raises(UserError, match=f"conditioning.npz: got {rows} rows"):
            read_images(tmp_path)
