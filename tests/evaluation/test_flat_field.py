"""The flat-field test against pictures whose noise is known."""

import numpy as np
import pytest

from ditq.core.errors import UserError
from ditq.evaluation import Drawn, float_variant
from ditq.evaluation.flat_field import (
    FlatField,
    flat_field,
    flat_prompts,
    noise_in_flat_tiles,
    step_counts,
    tile_variances,
)
from ditq.evaluation.metrics import Samples
from ditq.sampling.generate import settings_for
from tests.evaluation.toy import Toy, shrunk


class Pictures(Drawn):
    """In place of drawn pictures."""

    def __init__(self, pictures):
        object.__setattr__(self, "made", np.stack(pictures))

    def batches(self):
        for picture in self.made:
            yield Samples(["a wall"], picture[None], np.zeros((1, 1, 1, 1), np.float32))


def scene(deviation, seed):
    """A wall whose light falls off evenly, with a checked half, under Gaussian noise."""
    y, x = np.mgrid[:128, :128]
    picture = np.repeat((100 + 0.2 * x + 0.1 * y)[..., None], 3, axis=2)
    picture[:, 64:] += 40 * ((x + y)[:, 64:, None] % 2)
    picture += np.random.default_rng(seed).normal(0, deviation, picture.shape)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8)


def test_noise_is_found_under_a_gradient_and_beside_texture():
    rounding = 1 / 12
    ours, theirs = noise_in_flat_tiles(
        Pictures([scene(1.0, 1), scene(1.0, 2)]), Pictures([scene(4.0, 3), scene(4.0, 4)])
    )
    assert ours == pytest.approx(np.sqrt(1 + rounding), rel=0.05)
    assert theirs == pytest.approx(np.sqrt(16 + rounding), rel=0.05)
    field = FlatField("W4", 2, [4, 8], [ours, 0.5], [theirs, 0.5])
    assert field.added == pytest.approx([np.sqrt(15), 0], rel=0.05) and field.growth == 0
    assert FlatField("W4", 2, [4], [1.0], [0.5]).growth is None


def test_a_tile_is_compared_with_its_least_squares_plane():
    picture = np.random.default_rng(0).integers(0, 256, (40, 36, 3)).astype(np.uint8)
    found = tile_variances(picture)
    y, x = np.mgrid[:16, :16]
    design = np.stack([np.ones(256), x.ravel(), y.ravel()], axis=1)
    wanted = []
    for row in (0, 16):
        for column in (0, 16):
            rest = 0
            for channel in range(3):
                tile = picture[row : row + 16, column : column + 16, channel].astype(float).ravel()
                rest += np.linalg.lstsq(design, tile, rcond=None)[1][0] / 253 / 3
            wanted.append(rest)
    np.testing.assert_allclose(found, wanted)
    with pytest.raises(UserError, match="16 x 16 or more"):
        tile_variances(picture[:10])


def test_every_number_of_steps_is_drawn_once(tmp_path):
    model, counts = Toy(), []
    settings = settings_for(model, steps=2)
    assert step_counts(settings) == [1, 2, 4] and len(flat_prompts("mini", 6)) == 6
    variants = [float_variant(model), shrunk(model, 1.0), shrunk(model, 0.5)]
    same, half = flat_field(model, variants, [1, 2], settings, tmp_path, 2, counts.append)
    assert same.steps == [1, 2, 4] and same.added == [0, 0, 0] and same.noise == same.float_noise
    assert half.noise != half.float_noise and sum(counts) == 3 * 3 * 2
    assert flat_field(model, variants, [1, 2], settings, tmp_path, 2) == [same, half]
