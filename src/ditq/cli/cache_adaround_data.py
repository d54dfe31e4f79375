"""`python -m src.cache_adaround_data`: step 2W, the inputs and outputs of every block, for the weight track."""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ditq.calibration import (
    CacheRecipe,
    ImageSet,
    cache_blocks,
    cache_quantized,
    check_model,
    read_block_cache,
    read_images,
)
from ditq.calibration.block_cache import CONTENTS
from ditq.calibration.block_caching import DTYPES as STORED
from ditq.calibration.block_caching import batches, cache_meta, sample_bytes, unfinished
from ditq.calibration.cache_cost import cache_cost
from ditq.checkpoint import QuantizedModel
from ditq.checkpoint.npz_run.partial_run import read_finished
from ditq.cli import values
from ditq.cli.flags import (
    add_amount,
    add_calibration,
    add_dtype,
    add_model_choice,
    add_model_path,
    add_out,
    add_run_flags,
    amount,
    refuse_begun,
)
from ditq.cli.folders import check_space, size_words
from ditq.cli.forecasts import machine_for_images, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import free_bytes, lock, remove
from ditq.models import TextToImage

RECIPE = tuple(field.name for field in fields(CacheRecipe))


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and fills the cache."""
    flags = parser(
        "Run the float model once per picture and step, and keep what enters and leaves every block.",
        "python -m src.cache_adaround_data --calib-dir calibration_data --num-images 5 --stride 5",
    )
    add_calibration(flags)
    add_out(flags, meaning="default: adaround_cache in the calibration folder")
    add_recipe_flags(flags)
    group = flags.add_argument_group("stream")
    group.add_argument(
        "--stream",
        choices=["float", "quantized"],
        default="float",
        help="float fills the cache; quantized adds to it what its samples become in quantized blocks",
    )
    group.add_argument(
        "--adaround-output",
        type=values.folder,
        metavar="DIR",
        help="for the quantized stream: what adaround_optimize wrote, or has written so far",
    )
    model = flags.add_argument_group("model (named by the calibration data)")
    add_model_choice(model, None, "checked against the calibration data")
    add_model_path(model)
    add_dtype(model)
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: cache(args), args)


def add_recipe_flags(flags: argparse.ArgumentParser) -> None:
    """--num-images, --stride, --batch-size, --storage-dtype; None where they are not given."""
    group = flags.add_argument_group("recipe (of the quantized stream: the cache's own)")
    add_amount(group, "--num-images", "cache_images", "pictures, spread over the calibration data")
    add_amount(group, "--stride", "cache_stride", "take every so many steps")
    add_amount(group, "--batch-size", "batch_size", "pictures at once; guidance doubles them")
    group.add_argument(
        "--storage-dtype",
        choices=list(STORED),
        help=f"how streams are stored (default: {CacheRecipe.storage_dtype})",
    )


def cache(args: argparse.Namespace) -> None:
    """Writes the cache, or adds the quantized stream to it, and prints what is in it."""
    images = read_images(args.calib_dir)
    model = model_from(args, args.model or images.manifest["model"])
    folder = args.out or args.calib_dir / "adaround_cache"
    job = quantized_job if args.stream == "quantized" else float_job
    meta, samples, old, run_model = job(args, model, images, folder)
    refuse_begun(old[0], args)
    if args.dry_run:
        forecast(args, model, images, meta, samples)
        return
    started = time.perf_counter()
    with lock(folder), Progress(len(meta["samples"]), "sample", model.name) as bar:
        if args.force:
            remove(*old)
        check_samples(meta, samples)
        cached = run_model(bar.advance)
    report(args, meta, folder, cached, time.perf_counter() - started)


Job = tuple[dict[str, Any], Path, list[Path], Callable[[Callable[[int], None]], int]]
"""metadata.json, the folder of the samples, what a forced run removes, and the run itself, which reports samples."""


def float_job(args: argparse.Namespace, model: TextToImage, images: ImageSet, folder: Path) -> Job:
    """The cache itself."""
    recipe = CacheRecipe(
        amount(args.num_images, model.name, "cache_images", len(images.manifest["prompts"])),
        amount(args.stride, model.name, "cache_stride"),
        args.storage_dtype or CacheRecipe.storage_dtype,
        amount(args.batch_size, model.name, "batch_size"),
    )
    if args.adaround_output is not None:
        raise UserError("--adaround-output", got="the float stream", expected="--stream quantized")
    meta = cache_meta(model, images, recipe)
    old = [folder / name for name in CONTENTS]
    return (
        meta,
        folder / "samples",
        old,
        lambda on: cache_blocks(model, images, recipe, folder, args.resume, on),
    )


def quantized_job(args: argparse.Namespace, model: TextToImage, images: ImageSet, folder: Path) -> Job:
    """What the cache's samples become in the finished blocks of adaround_optimize. Raises UserError without them."""
    if args.adaround_output is None:
        raise UserError(
            "--stream quantized", got="no --adaround-output", expected="a folder of adaround_optimize"
        )
    cache = read_block_cache(folder)
    for name in RECIPE:
        if getattr(args, name) not in (None, cache.meta[name]):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(flag, got=getattr(args, name), expected=f"{cache.meta[name]}, as in {folder}")
    check_model(images, model)
    checkpoint, digests = read_finished(args.adaround_output)
    quantized = QuantizedModel(model, checkpoint, activations=checkpoint.activations is not None)

    def run_model(on_samples: Callable[[int], None]) -> int:
        return cache_quantized(quantized.network(), images, cache, digests, args.resume, on_samples)

    old = [folder / name for name in ("metadata_quantized.json", "samples_quantized")]
    return cache.meta, folder / "samples_quantized", old, run_model


def forecast(
    args: argparse.Namespace, model: TextToImage, images: ImageSet, meta: dict[str, Any], samples: Path
) -> None:
    """Prints passes, disk, memory and time, or refuses when the disk is too small."""
    count, waiting = len(meta["samples"]), unfinished(samples, meta) if args.resume else batches(meta)
    free, batch = free_bytes(samples), min(meta["batch_size"], meta["num_images"])
    told = told_of(
        machine_for_images(model, images, batch), cache_cost(meta, len(waiting), sum(map(len, waiting)))
    )
    facts = {"samples": count, "passes": len(waiting), **told.facts, "free_bytes": free}
    tell(
        args,
        {**facts, "output": str(samples.parent)},
        f"samples to cache: {count}, {meta['num_images']} pictures x {count // meta['num_images']} steps; "
        f"{len(waiting)} forward passes of {batch * meta['rows_per_sample']} rows serve all {meta['blocks']} blocks\n"
        f"{told} as {meta['storage_dtype']} in {samples.parent}, {size_words(free)} are free",
    )
    check_samples(meta, samples)


def check_samples(meta: dict[str, Any], samples: Path) -> None:
    """Raises UserError when what is still to be written does not fit on the disk."""
    needed = sum(map(len, unfinished(samples, meta))) * sample_bytes(meta)
    remedy = "take fewer pictures or a greater stride, store float16, or choose another --output-dir"
    check_space(samples.parent, needed, remedy)


def report(args: argparse.Namespace, meta: dict[str, Any], folder: Path, cached: int, seconds: float) -> None:
    """The command's last line."""
    samples, size = len(meta["samples"]), len(meta["samples"]) * sample_bytes(meta)
    if args.json:
        facts = {"output": str(folder), "samples": samples, "cached": cached, "blocks": meta["blocks"]}
        say(json.dumps({**facts, "bytes": size, "seconds": round(seconds, 3)}))
        return
    say(
        f"{samples} samples x {meta['blocks']} blocks ({cached} new), {size_words(size)}, {seconds:.1f} s: {folder}"
    )
