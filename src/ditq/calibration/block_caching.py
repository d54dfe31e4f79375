"""Fills a block cache: one pass of the model per picture and step, what passes from block to block written as it comes.

What is written, and where, stands in `ditq.calibration.block_cache`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
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
    array_key,
    facts_of,
    read_facts,
)
from ditq.calibration.image_set import ImageSet, check_model, check_network, replay_inputs
from ditq.calibration.prompt_choice import spread_images
from ditq.calibration.samples import missing_samples, sample_file
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import remove_leftovers, write_npz
from ditq.core.remedies import again
from ditq.models.base import Network, TextToImage
from ditq.models.cost import state_shapes
from ditq.models.digest import weights_digest
from ditq.models.state import BlockState
from ditq.nn.clock import clock_of

DTYPES = {"float16": mx.float16, "float32": mx.float32}
"""What arrays between blocks may be stored as."""
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


def cache_meta(model: TextToImage, images: ImageSet, recipe: CacheRecipe) -> dict[str, Any]:
    """metadata.json of this run; no weights are loaded.

    Raises UserError for calibration data that is of another model or not finished.
    """
    check_model(images, model)
    samples = recipe.samples(images)
    check_finished(images, samples)
    manifest, network, factor = images.manifest, model.skeleton(), model.geometry.factor
    height, width = manifest["height"] // factor, manifest["width"] // factor
    shapes = state_shapes(network, model.geometry, height, width)
    return {
        "kind": KIND,
        "version": VERSION,
        "producer": f"ditq {ditq.__version__}",
        "model": model.name,
        "calibration": images.digest,
        "guidance": manifest["cfg_weight"],
        **asdict(recipe),
        "blocks": network.flow.blocks,
        **facts_of(network),
        "latents": [height, width],
        "states": [{name: list(shape) for name, shape in new.items()} for new in shapes],
        "rows_per_sample": 2 if images.guided else 1,
        "prompts": {str(image): manifest["prompts"][image] for image, _ in samples},
        "samples": [list(sample) for sample in samples],
    }


def sample_bytes(meta: Mapping[str, Any]) -> int:
    """What the arrays of one sample take, on disk and in memory while it is written."""
    values = sum(prod(shape) for new in meta["states"] for shape in new.values())
    return meta["rows_per_sample"] * values * DTYPES[meta["storage_dtype"]].size


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
    bit for bit that of an unbroken one, also where a sample was lost or cut off. Raises UserError for calibration data
    that is of another model or not finished, for a folder begun with other settings or another network, and for values
    beyond the range of `recipe.storage_dtype`.
    """
    meta = cache_meta(model, images, recipe)
    network, path = model.network(), folder / "metadata.json"
    check_network(images, network)
    begun = {"model_dtype": str(network.dtype), plan.WEIGHTS: weights_digest(network)}
    new = not path.exists()
    plan.begin(path, {**meta, **begun}, resume)
    return _fill(network, images, meta, folder / "samples", on_samples, new)


def cache_quantized(
    network: Network,
    images: ImageSet,
    cache: BlockCache,
    source: Mapping[int, str],
    resume: bool = False,
    on_samples: Callable[[int], None] = lambda count: None,
) -> int:
    """Adds to `cache` what its samples become in `network`, some or all of whose blocks are quantized.

    `source` says, by the number of each quantized block, what was put into it; with other blocks a run cannot be
    resumed. Returns the number of samples that were still to be run. Raises UserError as `cache_blocks` does.
    """
    if cache.meta["calibration"] != images.digest:
        raise UserError(
            str(images.folder),
            got=f"other calibration data than that of {cache.folder}",
            expected=cache.meta["calibration"],
        )
    cache.check_model(network, weights=False)
    if str(network.dtype) != cache.meta["model_dtype"]:
        raise UserError(
            "--dtype",
            got=str(network.dtype),
            expected=f"{cache.meta['model_dtype']} as in {cache.folder}",
        )
    check_finished(images, cache.samples)
    meta = {
        **cache.meta,
        "kind": QUANTIZED,
        "source": {str(block): digest for block, digest in source.items()},
    }
    path = cache.folder / "metadata_quantized.json"
    new = not path.exists()
    plan.begin(path, meta, resume)
    return _fill(network, images, meta, cache.folder / "samples_quantized", on_samples, new)


def check_finished(images: ImageSet, samples: Sequence[Sample]) -> None:
    """Raises UserError when latents of the samples are not there yet."""
    missing = missing_samples(images.folder / "samples", samples)
    if missing:
        raise UserError(
            str(images.folder),
            got=f"no latents of image {missing[0][0]}, step {missing[0][1]}",
            remedy=again("generate_calibration_data"),
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
    return [batch for batch in batches(meta) if not all(_whole(folder, sample, meta) for sample in batch)]


def _whole(folder: Path, sample: Sample, meta: Mapping[str, Any]) -> bool:
    """Whether the sample's file is there, whole (its directory stands at its end), and that sample's."""
    try:
        read_facts(folder, sample, meta)
    except UserError:
        return False
    return True


def _fill(
    network: Network,
    images: ImageSet,
    meta: Mapping[str, Any],
    folder: Path,
    on_samples: Callable[[int], None],
    new: bool,
) -> int:
    """Runs the samples that are not there: of a `new` run all, whatever files of another lie there."""
    remove_leftovers(folder)
    waiting = batches(meta) if new else unfinished(folder, meta)
    todo = sum(map(len, waiting))
    on_samples(len(meta["samples"]) - todo)
    for batch in waiting:
        for sample, arrays in _run_batch(network, images, meta, batch):
            write_npz(sample_file(folder, *sample), arrays)
        on_samples(len(batch))
    return todo


def _run_batch(
    network: Network, images: ImageSet, meta: Mapping[str, Any], batch: Sequence[Sample]
) -> Iterator[tuple[Sample, dict[str, np.ndarray]]]:
    """The arrays of each sample's file."""
    chosen, step = [image for image, _ in batch], batch[0][1]
    sigma = np.float32(images.sigmas[step])
    timestep = images.timesteps([step])[0]
    where = f"images {', '.join(map(str, chosen))}, step {step}"
    clock, flow, seen = clock_of(network), network.flow, dict[str, np.ndarray]()
    if clock is not None:
        clock.follow(np.array([timestep]))
        clock.set(0)
    latents, inputs = replay_inputs(network, images, chosen, step)
    for boundary, state in enumerate(network.boundaries(latents, **inputs)):
        new = {name: state[name] for name in flow.written(boundary)}
        kept = stored(new, boundary, meta["storage_dtype"], where)
        seen |= {array_key(name, boundary, flow.blocks): array for name, array in kept.items()}
    arrays = images.conditioning(chosen).arrays
    given_by = {name: np.array(arrays[name], np.float32) for name in network.given_by}
    for i, sample in enumerate(batch):
        own = slice(i, None, len(batch))  # the prompt's row, then the negative's
        facts = {
            **{name: array[own] for name, array in given_by.items()},
            "timestep": timestep,
            "sigma": sigma,
            "step_index": np.int32(step),
            "image_id": np.int32(sample[0]),
        }
        yield sample, {**{key: array[own] for key, array in seen.items()}, **facts}


def stored(arrays: BlockState, boundary: int, dtype: str, where: str) -> dict[str, np.ndarray]:
    """The arrays of a boundary as they go to disk; evaluates them.

    Raises UserError, with block, name and `where`, for values that `dtype` cannot hold.
    """
    kept = {name: array.astype(DTYPES[dtype]) for name, array in arrays.items()}
    mx.eval(kept)
    for name, array in kept.items():
        if not mx.isfinite(array).all().item():
            raise _overflow(name, arrays[name], boundary, dtype, where)
    return {name: np.array(array) for name, array in kept.items()}


def _overflow(name: str, array: mx.array, boundary: int, dtype: str, where: str) -> UserError:
    place = f"input of block {boundary}" if boundary == 0 else f"output of block {boundary - 1}"
    what = f"{place}, {name} stream, {where}"
    if not mx.isfinite(array).all().item():
        return UserError(
            what,
            got=f"values that are not finite: the network overflowed {array.dtype}",
            remedy="use --dtype bfloat16 or float32",
        )
    greatest = np.abs(np.array(array.astype(mx.float32))).max()
    return UserError(
        what, got=f"{greatest:,.0f}, beyond the range of {dtype}", remedy="use --storage-dtype float32"
    )
