"""`python -m src.cache_adaround_data`: step 2W, the inputs and outputs of every block, for the weight track."""

import argparse
import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from ditq.calibration import CacheRecipe, ImageSet, blocks, cache_blocks, read_images
from ditq.calibration.caching import batches, cache_meta, sample_bytes, unfinished
from ditq.calibration.recording import DTYPES as STORED
from ditq.cli.flags import DTYPES, add_run_flags, model_forecast, parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.artefact import free_bytes, remove
from ditq.core.errors import UserError
from ditq.generation import Settings
from ditq.models import MODELS, TextToImage, load


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and fills the cache."""
    flags = parser(
        "Run the float model once per picture and step, and keep what enters and leaves every block.",
        "python -m src.cache_adaround_data --calib-dir calibration_data --num-images 5 --stride 5",
    )
    flags.add_argument(
        "--calib-dir",
        type=Path,
        default=Path("calibration_data"),
        metavar="DIR",
        help="what generate_calibration_data wrote (default: calibration_data)",
    )
    flags.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="default: adaround_cache in the calibration folder"
    )
    group = flags.add_argument_group("recipe")
    numbers = {
        "--num-images": (CacheRecipe.num_images, "pictures, spread over the calibration data"),
        "--stride": (CacheRecipe.stride, "take every so many steps"),
        "--batch-size": (CacheRecipe.batch_size, "pictures at once; guidance doubles them"),
    }
    for flag, (number, meaning) in numbers.items():
        group.add_argument(flag, type=int, default=number, metavar="N", help=f"{meaning} (default: {number})")
    group.add_argument(
        "--dtype",
        choices=list(STORED),
        default=CacheRecipe.dtype,
        help=f"how streams are stored (default: {CacheRecipe.dtype})",
    )
    model = flags.add_argument_group("model (named by the calibration data)")
    model.add_argument("--model", choices=list(MODELS), help="checked against the calibration data")
    model.add_argument(
        "--model-path", type=Path, metavar="DIR", help="a local folder in place of the download"
    )
    model.add_argument(
        "--model-dtype", choices=list(DTYPES), help="the transformer's dtype (default: the model's choice)"
    )
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: cache(args))


def cache(args: argparse.Namespace) -> None:
    """Writes the cache and prints what is in it."""
    recipe = CacheRecipe(args.num_images, args.stride, args.dtype, args.batch_size)
    images = read_images(args.calib_dir)
    dtype = DTYPES[args.model_dtype] if args.model_dtype else None
    model = load(args.model or images.manifest["model"], args.model_path, dtype)
    folder = args.output_dir or args.calib_dir / "adaround_cache"
    meta = cache_meta(model, images, recipe)
    if args.dry_run:
        forecast(args, model, images, meta, folder)
        return
    if args.force:
        remove(*(folder / name for name in blocks.CONTENTS))
    check_space(meta, folder, folder / "samples")
    started = time.perf_counter()
    with Progress(len(meta["samples"]), "sample", model.name) as bar:
        cached = cache_blocks(model, images, recipe, folder, args.resume, bar.advance)
    report(args, meta, folder, cached, time.perf_counter() - started)


def forecast(
    args: argparse.Namespace, model: TextToImage, images: ImageSet, meta: dict[str, Any], folder: Path
) -> None:
    """Prints passes, disk, memory and time, or refuses when the disk is too small."""
    samples, size = len(meta["samples"]), sample_bytes(meta)
    passes = len(unfinished(folder / "samples", meta) if args.resume else batches(meta))
    free = free_bytes(folder)
    if args.json:
        facts = {"samples": samples, "passes": passes, "bytes": samples * size, "free_bytes": free}
        print(json.dumps({**facts, "memory_bytes": size * meta["batch_size"], "output": str(folder)}))
    else:
        batch = min(meta["batch_size"], meta["num_images"])
        steps = samples // meta["num_images"]
        print(
            f"samples to cache: {samples}, {meta['num_images']} pictures x {steps} steps; {passes} forward passes of "
            f"{batch * meta['rows_per_sample']} rows serve all {meta['blocks']} blocks"
        )
        print(_model_forecast(args, model, images, meta["num_images"], steps))
        print(f"memory: {_size(batch * size)} of streams at once, beside the transformer")
        print(f"disk: {_size(samples * size)} as {meta['dtype']} in {folder}, {_size(free)} are free")
    check_space(meta, folder, folder / "samples")


def check_space(meta: dict[str, Any], folder: Path, samples: Path) -> None:
    """Raises UserError when what is still to be written does not fit on the disk."""
    needed = sum(map(len, unfinished(samples, meta))) * sample_bytes(meta)
    free = free_bytes(folder)
    if needed > free:
        raise UserError(
            str(folder),
            got=f"{_size(free)} free",
            expected=_size(needed),
            remedy="take fewer pictures or a greater stride, store float16, or choose another --output-dir",
        )


def report(args: argparse.Namespace, meta: dict[str, Any], folder: Path, cached: int, seconds: float) -> None:
    """The command's last line."""
    samples, size = len(meta["samples"]), len(meta["samples"]) * sample_bytes(meta)
    if args.json:
        facts = {"output": str(folder), "samples": samples, "cached": cached, "blocks": meta["blocks"]}
        print(json.dumps({**facts, "bytes": size, "seconds": round(seconds, 3)}))
        return
    print(
        f"{samples} samples x {meta['blocks']} blocks ({cached} new), {_size(size)}, {seconds:.1f} s: {folder}"
    )


def _model_forecast(
    args: argparse.Namespace, model: TextToImage, images: ImageSet, pictures: int, steps: int
) -> str:
    names = {field.name for field in fields(Settings)} - {"steps", "guidance"}
    own = {name: images.manifest[name] for name in names}
    settings = Settings(**own, steps=steps, guidance=images.manifest["cfg_weight"])
    return model_forecast(argparse.Namespace(dtype=args.model_dtype), model, settings, pictures)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
