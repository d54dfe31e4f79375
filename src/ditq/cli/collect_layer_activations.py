"""`python -m src.collect_layer_activations`: step 2A, what each layer receives at each timestep."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ditq.calibration import ImageSet, read_images
from ditq.cli import values
from ditq.cli.flags import (
    add_amount,
    add_calibration,
    add_dtype,
    add_model_choice,
    add_model_path,
    add_numbers,
    add_out,
    add_run_flags,
    add_shard,
    amount,
    refuse_begun,
)
from ditq.cli.forecasts import machine_for_images, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import lock, remove
from ditq.diagnostics import InputRecipe, collect_forecast, collect_inputs, merge_inputs
from ditq.diagnostics.layer_files import CONTENTS, FOLDER, MANIFEST
from ditq.models import TextToImage


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and collects, or merges."""
    flags = parser(
        "Replay calibration pictures and keep statistics of what every block's linear layers receive.",
        "python -m src.collect_layer_activations --calib-dir calibration_data --num-images 5 --stride 2",
    )
    add_calibration(flags)
    add_out(flags, meaning="default: the folder activations in --calib-dir")
    flags.add_argument(
        "--merge",
        type=values.folder,
        nargs="+",
        metavar="DIR",
        help="instead: add up the folders of several runs",
    )
    group = flags.add_argument_group("recipe")
    add_amount(group, "--num-images", "statistics_images", "pictures to replay")
    add_amount(group, "--stride", "statistics_stride", "replay every N-th step")
    add_amount(group, "--batch-size", "batch_size", "pictures at once; guidance doubles them")
    values_kept = (InputRecipe.sample_values, "values kept whole per layer and timestep")
    add_numbers(group, {"--sample-values": values_kept})
    group.add_argument(
        "--inputs",
        default="all",
        choices=["all", "postgelu"],
        help="every linear layer of the blocks, or what every fc2 receives (default: all)",
    )
    add_shard(group, "replay every N-th picture from the K-th on, to merge")
    model = flags.add_argument_group("model (named by the calibration data)")
    add_model_choice(model, None, "refuse calibration data of another one")
    add_model_path(model)
    add_dtype(model)
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: merge_folders(args) if args.merge else collect(args), args)


def collect(args: argparse.Namespace) -> None:
    """Writes the folder and prints what is in it."""
    output = args.out or args.calib_dir / "activations"
    images = read_images(args.calib_dir)
    model = _model(args, images)
    recipe = InputRecipe(
        amount(args.num_images, model.name, "statistics_images", len(images.manifest["prompts"])),
        amount(args.stride, model.name, "statistics_stride"),
        amount(args.batch_size, model.name, "batch_size"),
        args.inputs,
        args.sample_values,
        args.shard,
    )
    refuse_begun(output / MANIFEST, args)
    if args.dry_run:
        expected = collect_forecast(model, images, recipe)
        machine = machine_for_images(model, images, min(recipe.batch_size, expected.pictures))
        told = told_of(machine, expected.cost)
        facts = {"images": expected.pictures, "steps": expected.steps, **told.facts, "output": str(output)}
        tell(args, facts, f"{expected}: {told} in {output}")
        return
    started = time.perf_counter()
    steps = len(range(0, len(images.sigmas), recipe.stride))
    total = len(recipe.images(len(images.manifest["prompts"]))) * steps
    with lock(output), Progress(total, "forward", model.name) as bar:
        if args.force:
            remove(*(output / name for name in CONTENTS))
        manifest = collect_inputs(model, images, recipe, output, args.resume, bar.advance)
    _report(args, manifest, output, time.perf_counter() - started)


def merge_folders(args: argparse.Namespace) -> None:
    """Writes the sum of several folders and prints what is in it."""
    if args.out is None:
        raise UserError("--output-dir", got="none", expected="where the merged statistics go")
    own = (
        "num_images",
        "stride",
        "batch_size",
        "sample_values",
        "inputs",
        "shard",
        "model",
        "model_path",
        "dtype",
    )
    without_effect(args, "with --merge", "calib_dir", *own)
    if args.out.resolve() in [folder.resolve() for folder in args.merge]:
        raise UserError("--output-dir", got=args.out, expected="another folder than those that are merged")
    if args.dry_run:
        facts = {"folders": list(map(str, args.merge)), "output": str(args.out)}
        tell(args, facts, f"would add up {len(args.merge)} folders: {args.out}")
        return
    started = time.perf_counter()
    with lock(args.out):
        if args.force:
            remove(*(args.out / name for name in CONTENTS))
        manifest = merge_inputs(args.merge, args.out, args.resume)
    _report(args, manifest, args.out, time.perf_counter() - started)


def _model(args: argparse.Namespace, images: ImageSet) -> TextToImage:
    name = images.manifest["model"]
    if args.model not in (None, name):
        raise UserError(f"--model {args.model}", got=f"calibration data of {name} in {args.calib_dir}")
    return model_from(args, name)


def _report(args: argparse.Namespace, manifest: dict[str, Any], output: Path, seconds: float) -> None:
    size = sum(file.stat().st_size for file in (output / FOLDER).iterdir())
    images, steps, layers = len(manifest["images"]), len(manifest["step_keys"]), len(manifest["layers"])
    if args.json:
        facts = {"output": str(output), "images": images, "steps": steps, "layers": layers}
        say(json.dumps({**facts, "bytes": size, "seconds": round(seconds, 3)}))
        return
    say(f"{images} pictures x {steps} steps, {layers} layers, {size / 1e6:.1f} MB, {seconds:.1f} s: {output}")
