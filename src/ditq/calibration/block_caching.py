"""Fills a block cache: one pass of the model per picture and step, every block's streams written as they come.

What is written, and where, stands in `ditq.calibration.block_cache`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.calibration.block_cache import (
    KIND,
    QUANTIZED,
    VERSION,
    BlockCache,
    Streams,
    boundary_keys,
    missing_samples,
    sample_file,
)
from ditq.calibration.image_set import ImageSet, check_model, replay
from ditq.calibration.recording import DTYPES, recorded, stored
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import remove, write_npz
from ditq.models.base import TextToImage
from ditq.models.mmdit import MMDiT
from ditq.nn import clock_of

Sample = tuple[int, int]
"""Image and step."""


@dataclass(frozen=True)
class CacheRecipe:
    """Which pictures and steps of the calibration data are cached, and how."""

    num_images: int = 5
    stride: int = 5
    """Every so many steps, from the first on."""
    storage_dtype: str = "float16"
    """Of the streams on disk."""
    batch_size: int = 1
    """Pictures of one step at once; guidance doubles them."""

    def __post_init__(self) -> None:
        for name in ("num_images", "stride", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')}", got=getattr(self, name), expected="at least 1")
        if self.storage_dtype not in DTYPES:
            raise UserError("--storage-dtype", got=self.storage_dtype, expected=" or ".join(DTYPES))

    def samples(self, images: ImageSet) -> list[Sample]:
        """The (image, step) of each sample, step by step within an image.

        Raises UserError when there are fewer pictures than wanted.
        """
        steps = range(0, len(images.sigmas), self.stride)
        chosen = spread_images(images.manifest["prompts"], self.num_images)
        return [(image, step) for image in chosen for step in steps]


def spread_images(prompts: Sequence[str], count: int) -> list[int]:
    """`count` pictures, evenly spread; one whose prompt was taken before gives way to the next with a new prompt.

    Raises UserError when there are not that many.
    """
    total, chosen = len(prompts), []
    if count > total:
        raise UserError(
            "--num-images", got=count, expected=f"at most {total}, the pictures of the calibration data"
        )
    for i in range(count):
        start = i * total // count
        free = [j % total for j in range(start, start + total) if j % total not in chosen]
        taken = {prompts[j] for j in chosen}
        chosen.append(next((j for j in free if prompts[j] not in taken), free[0]))
    return sorted(chosen)


def cache_meta(model: TextToImage, images: ImageSet, recipe: CacheRecipe) -> dict[str, Any]:
    """metadata.json of this run; nothing is loaded.

    Raises UserError for calibration data that is of another model or not finished.
    """
    check_model(images, model)
    samples = recipe.samples(images)
    check_finished(images, samples)
    config, manifest = model.config, images.manifest
    cells = manifest["height"] // model.factor * (manifest["width"] // model.factor)
    return {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": model.name,
        "calibration": images.digest,
        "guidance": manifest["cfg_weight"],
        **asdict(recipe),
        "blocks": config.depth_multimodal,
        "hidden": config.hidden_size,
        "pooled_dim": config.pooled_text_embed_dim,
        "image_tokens": cells // config.patch_size**2,
        "text_tokens": images.tokens.shape[1],
        "rows_per_sample": 2 if images.guided else 1,
        "prompts": {str(image): manifest["prompts"][image] for image, _ in samples},
        "samples": [list(sample) for sample in samples],
    }


def sample_bytes(meta: Mapping[str, Any]) -> int:
    """What the streams of one sample take, on disk and in memory while it is written."""
    tokens = meta["image_tokens"] + meta["text_tokens"]
    values = meta["rows_per_sample"] * tokens * meta["hidden"] * (meta["blocks"] + 1)
    return values * DTYPES[meta["storage_dtype"]].size


def cache_blocks(
    model: TextToImage,
    images: ImageSet,
    recipe: CacheRecipe,
    folder: Path,
    resume: bool = False,
    on_samples: Callable[[int], None] = lambda count: None,
) -> int:
    """Fills `folder` with the float model's streams; returns the number of samples that were still to be run.

    A sample is written when its pass is over, whole or not at all: an interrupted run resumes there, and its result is
    bit for bit that of an unbroken one. Raises UserError for calibration data that is of another model or not finished,
    for a folder begun with other settings, and for values beyond the range of `recipe.storage_dtype`.
    """
    meta = cache_meta(model, images, recipe)
    mmdit = model.transformer()
    plan.begin(folder / "metadata.json", {**meta, "model_dtype": str(mmdit.dtype)}, resume)
    return _fill(mmdit, images, meta, folder / "samples", on_samples)


def cache_quantized(
    mmdit: MMDiT,
    images: ImageSet,
    cache: BlockCache,
    source: Mapping[int, str],
    resume: bool = False,
    on_samples: Callable[[int], None] = lambda count: None,
) -> int:
    """Adds to `cache` what its samples become in `mmdit`, some or all of whose blocks are quantized.

    `source` says, by the number of each quantized block, what was put into it; with other blocks a run cannot be
    resumed. Returns the number of samples that were still to be run. Raises UserError as `cache_blocks` does.
    """
    if cache.meta["calibration"] != images.digest:
        raise UserError(
            str(images.folder),
            got=f"other calibration data than that of {cache.folder}",
            expected=cache.meta["calibration"],
        )
    cache.check_model(mmdit)
    if str(mmdit.dtype) != cache.meta["model_dtype"]:
        raise UserError(
            "--dtype",
            got=str(mmdit.dtype),
            expected=f"{cache.meta['model_dtype']} as in {cache.folder}",
        )
    check_finished(images, cache.samples)
    meta = {
        **cache.meta,
        "kind": QUANTIZED,
        "source": {str(block): digest for block, digest in source.items()},
    }
    plan.begin(cache.folder / "metadata_quantized.json", meta, resume)
    return _fill(mmdit, images, meta, cache.folder / "samples_quantized", on_samples)


def check_finished(images: ImageSet, samples: Sequence[Sample]) -> None:
    """Raises UserError when latents of the samples are not there yet."""
    missing = missing_samples(images.folder / "samples", samples)
    if missing:
        raise UserError(
            str(images.folder),
            got=f"no latents of image {missing[0][0]}, step {missing[0][1]}",
            remedy="finish it with generate_calibration_data --resume",
        )


def batches(meta: Mapping[str, Any]) -> list[list[Sample]]:
    """The samples in the batches that they are run in, each of one step."""
    by_step: dict[int, list[Sample]] = {}
    for image, step in meta["samples"]:
        by_step.setdefault(step, []).append((image, step))
    size = meta["batch_size"]
    return [own[start : start + size] for own in by_step.values() for start in range(0, len(own), size)]


def unfinished(folder: Path, meta: Mapping[str, Any]) -> list[list[Sample]]:
    """The batches that are not complete on disk; each is computed as a whole, as it would have been at first."""
    return [batch for batch in batches(meta) if missing_samples(folder, batch)]


def _fill(
    mmdit: MMDiT, images: ImageSet, meta: Mapping[str, Any], folder: Path, on_samples: Callable[[int], None]
) -> int:
    remove(*folder.glob(".*.npz"))  # what a killed run left half written
    waiting = unfinished(folder, meta)
    todo = sum(map(len, waiting))
    on_samples(len(meta["samples"]) - todo)
    for batch in waiting:
        for sample, arrays in _run_batch(mmdit, images, meta, batch):
            write_npz(sample_file(folder, *sample), arrays)
        on_samples(len(batch))
    return todo


def _run_batch(
    mmdit: MMDiT, images: ImageSet, meta: Mapping[str, Any], batch: Sequence[Sample]
) -> Iterator[tuple[Sample, dict[str, np.ndarray]]]:
    """The arrays of each sample's file."""
    chosen, step = [image for image, _ in batch], batch[0][1]
    sigma = np.float32(images.sigmas[step])
    timestep = np.float32(1000 * images.sigmas[step])
    seen: dict[str, np.ndarray] = {}

    def observe(boundary: int, streams: Streams) -> None:
        keys = boundary_keys(boundary, meta["blocks"])
        where = f"images {', '.join(map(str, chosen))}, step {step}"
        seen.update(zip(keys, stored(streams, boundary, meta["storage_dtype"], where), strict=True))

    clock = clock_of(mmdit)
    if clock is not None:
        clock.set(int(clock.follow(np.array([timestep]))[0]))
    with recorded(mmdit, observe):
        mx.eval(replay(mmdit, images, chosen, step))
    pooled = np.array(images.conditioning(chosen).pooled, np.float32)
    for i, sample in enumerate(batch):
        own = slice(i, None, len(batch))  # the prompt's row, then the negative's
        facts = {
            "pooled": pooled[own],
            "timestep": timestep,
            "sigma": sigma,
            "step_index": np.int32(step),
            "image_id": np.int32(sample[0]),
        }
        yield sample, {**{key: array[own] for key, array in seen.items()}, **facts}
