"""A folder of whole trajectories, one per picture: what the weight and the activation track replay.

manifest.json                     kind, version, model, sampler settings, sigmas, one prompt and seed per image
conditioning.npz                  tokens and, where the model has them, pooled and mask (distinct prompts + 1, ...)
                                  float32: the last row is the negative
samples/{image:04d}_{step:03d}.npz  x (1, height, width, channels) float16, timestep, sigma, step_index, image_id
images/{image:04d}.png            the picture, for the eye
latents/{image:04d}.npy           the final latents, float16
network.json                      dtype and digest of the network's weights, shape of the latents
digests.json                      digests of the conditioning and of each sample's x, as they were written
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.calibration import drawn_by
from ditq.calibration.digests import (
    NAME,
    Digests,
    check_digest,
    note_conditioning,
    note_samples,
    read_digests,
)
from ditq.calibration.manifest import KIND, VERSION, check_manifest
from ditq.calibration.samples import read_sample, sample_file
from ditq.calibration.stored import check_array
from ditq.calibration.trajectories import Trajectories, record
from ditq.core import plan
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.files import npz_size, read_image, read_npy, read_npz, write_npy, write_npz, write_png
from ditq.models.base import TextToImage
from ditq.models.cost import blank_conditioning
from ditq.sampling.generate import Settings

CONTENTS = ("manifest.json", "conditioning.npz", "samples", "images", "latents", drawn_by.NAME, NAME)
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


DIGEST = 26
"""Bytes of a sample in digests.json."""


@dataclass(frozen=True)
class ImageRecipe:
    """How many pictures, from which seed on, and how many at once."""

    num_images: int = 50
    seed: int = 0
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}", got=getattr(self, name), expected="at least 1")


def collect_images(
    model: TextToImage,
    prompts: Sequence[str],
    recipe: ImageRecipe,
    settings: Settings,
    folder: Path,
    resume: bool = False,
    on_step: Callable[[int], None] = lambda steps: None,
) -> int:
    """Fills `folder` with what this module describes; returns the number of pictures that were still to be made.

    Picture i has seed `recipe.seed + i` and prompt i modulo their number. A resumed run passes over pictures of which
    all files are there and as they must be, and makes the others again, equal to the bit. Raises UserError when the
    folder was begun with other settings or another network.
    """
    distinct = list(prompts)[: recipe.num_images]
    rows = [i % len(distinct) for i in range(recipe.num_images)]
    manifest = _manifest(model, [distinct[row] for row in rows], recipe, settings)
    check_manifest(manifest, folder / "manifest.json")
    new = not (folder / "manifest.json").exists()
    plan.begin(folder / "manifest.json", manifest, resume)
    known = read_digests(folder)
    shape = settings.latent_shape(model.geometry)
    todo = list(range(recipe.num_images)) if new else _unfinished(folder, recipe, manifest, shape, known)
    encoded = not todo and _encoded(folder, len(distinct) + 1, known)
    conditioning = None if encoded else model.encode([*distinct, settings.negative])
    drawn_by.begin(folder, model.network(), shape, new)
    on_step((recipe.num_images - len(todo)) * settings.steps)
    if conditioning is None:
        return 0
    arrays = {name: np.array(array, np.float32) for name, array in conditioning.arrays.items()}
    note_conditioning(folder, arrays)
    write_npz(folder / "conditioning.npz", arrays)
    if not todo:
        return 0
    batches = record(
        model,
        conditioning.rows([rows[i] for i in todo]),
        conditioning[-1:],
        [recipe.seed + i for i in todo],
        settings,
        np.arange(settings.steps),
        recipe.batch_size,
        lambda: on_step(recipe.batch_size),
    )
    for start, batch in zip(range(0, len(todo), recipe.batch_size), batches, strict=True):
        _write_batch(model, folder, todo[start : start + recipe.batch_size], batch, settings)
    return len(todo)


def collect_cost(model: TextToImage, recipe: ImageRecipe, settings: Settings, prompts: int) -> Cost:
    """What `collect_images` takes from the beginning, with so many prompts, but for the pictures' PNG files."""
    height, width, channels = settings.latent_shape(model.geometry)
    facts = dict.fromkeys(("timestep", "sigma", "step_index", "image_id"), ((), 4))
    sample = npz_size({"x": ((1, height, width, channels), 2), **facts})
    texts = blank_conditioning(model.geometry, 1 + min(prompts, recipe.num_images)).arrays
    conditioning = npz_size({name: (array.shape, 4) for name, array in texts.items()})
    points = recipe.num_images * settings.steps
    latents = recipe.num_images * (128 + 2 * height * width * channels)
    return Cost(
        rows=points * (2 if settings.guidance > 1 else 1),
        bytes=points * (sample + DIGEST) + latents + conditioning,
        files=points + 2 * recipe.num_images,
        memory=8 * recipe.batch_size * settings.steps * height * width * channels,
    )


def _manifest(model: TextToImage, prompts: list[str], recipe: ImageRecipe, settings: Settings) -> dict:
    return {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": model.name,
        **asdict(recipe),
        "num_steps": settings.steps,
        "cfg_weight": settings.guidance,
        **{key: value for key, value in settings.recorded().items() if key not in ("steps", "guidance")},
        "prompts": prompts,
        "seeds": [recipe.seed + i for i in range(recipe.num_images)],
        "sigmas": settings.sigmas.tolist(),
    }


def _unfinished(
    folder: Path, recipe: ImageRecipe, manifest: dict[str, Any], shape: tuple[int, int, int], known: Digests
) -> list[int]:
    """The pictures of every batch of which a file is missing, cut off, or not what it must be."""
    todo = []
    for start in range(0, recipe.num_images, recipe.batch_size):
        batch = range(start, min(start + recipe.batch_size, recipe.num_images))
        if not all(_whole(folder, image, manifest, shape, known) for image in batch):
            todo += batch
    return todo


def _whole(
    folder: Path, image: int, manifest: dict[str, Any], shape: tuple[int, int, int], known: Digests
) -> bool:
    """Whether all files of a picture can be read and are as they must be."""
    path = folder / "latents" / f"{image:04d}.npy"
    try:
        picture, _ = read_image(folder / "images" / f"{image:04d}.png")
        check_array(path, "latents", read_npy(path), shape, "float16")
        for step in range(manifest["num_steps"]):
            read_sample(folder, manifest, image, step, shape, known.sample(image, step))
    except UserError:
        return False
    return picture.shape[:2] == (manifest["height"], manifest["width"])


def _encoded(folder: Path, rows: int, known: Digests) -> bool:
    """Whether what the text encoders said of the prompts is there."""
    try:
        arrays = read_npz(folder / "conditioning.npz")
        check_digest("conditioning.npz", arrays, known.conditioning)
    except UserError:
        return False
    return "tokens" in arrays and all(array.ndim and len(array) == rows for array in arrays.values())


def _write_batch(
    model: TextToImage, folder: Path, images: list[int], batch: Trajectories, settings: Settings
) -> None:
    pictures = model.decode(mx.array(batch.final))
    sigmas = settings.sigmas.astype(np.float32)
    timesteps = settings.process.timesteps(sigmas)
    note_samples(folder, {image: list(_halves(xs)) for image, xs in zip(images, batch.x, strict=True)})
    for image, xs, final, picture in zip(images, batch.x, batch.final, pictures, strict=True):
        for step, x in enumerate(_halves(xs)):
            sample = {
                "x": x,
                "timestep": timesteps[step],
                "sigma": sigmas[step],
                "step_index": np.int32(step),
                "image_id": np.int32(image),
            }
            write_npz(sample_file(folder / "samples", image, step), sample)
        write_npy(folder / "latents" / f"{image:04d}.npy", final.astype(np.float16))
        write_png(folder / "images" / f"{image:04d}.png", picture)


def _halves(xs: np.ndarray) -> Iterator[np.ndarray]:
    """x at each step as its sample holds it."""
    return (x[None].astype(np.float16) for x in xs)
