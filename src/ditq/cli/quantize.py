"""`python -m src.quantize`: recorded pictures and a recipe in, a quantized checkpoint folder out."""

import argparse
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from ditq.calibration import ImageSet, read_images
from ditq.calibration.block_caching import cache_meta
from ditq.checkpoint import QuantizedCheckpoint, read_folder, write_folder
from ditq.cli import values
from ditq.cli.flags import (
    add_amount,
    add_calibration,
    add_dtype,
    add_model_choice,
    add_model_path,
    add_numbers,
    add_out,
    add_recipe,
    add_run_flags,
    refuse_begun,
)
from ditq.cli.folders import bytes_in, check_space, size_words
from ditq.cli.forecasts import SOLVER_ROWS, Told, machine_for, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Bars
from ditq.cli.run import run
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import lock, read_json, remove, write_json
from ditq.core.recipe import Recipe, blocks_alone, presets, read_recipe
from ditq.evaluation import size_of
from ditq.models import TextToImage
from ditq.models.digest import weights_digest
from ditq.quantization import Forecast, check_storable, forecast, quantize
from ditq.quantization.preparation import (
    ACTIVATIONS,
    CACHE,
    CalibrationAmounts,
    activation_method,
    calibrated,
    calibration_amounts,
    calibration_cost,
)
from ditq.quantization.tuning import tuning_of

WORK = "work"
"""What a run keeps beside the checkpoint: its plan and, until it is done, the grids and the finished blocks."""
CHECKPOINT = ("config.json", "activations.npz", "smoothing.npz", "model.safetensors.index.json")
CONTENTS = (*CHECKPOINT, "report.json", WORK)
"""What the folder holds besides model*.safetensors: what a forced run removes."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and quantizes."""
    flags = parser(
        "Quantize a model as a recipe says, and write a checkpoint folder that stock MLX loaders read.",
        "python -m src.quantize --model mini --recipe w4a8-qronos --calib calibration_data --out mini-w4a8",
    )
    add_recipe(flags, None, "a preset (--list), or a recipe's .json file")
    flags.add_argument("--list", action="store_true", help="say which presets there are, and stop")
    add_quantize_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: list_presets(args) if args.list else carry_out(args, _recipe(args)), args)


def add_quantize_flags(
    flags: argparse.ArgumentParser, model: str = "mini", out: str = "quantized_model"
) -> None:
    """--calib, --out, how much of the calibration is used, the model and the run."""
    add_calibration(flags)
    add_out(flags, out)
    flags.add_argument(
        "--blocks",
        type=values.whole("--blocks"),
        metavar="N",
        help="quantize the first N blocks alone (default: all)",
    )
    group = flags.add_argument_group("calibration")
    add_amount(group, "--num-images", "cache_images", "recorded pictures that the weights are fitted on")
    add_amount(group, "--stride", "cache_stride", "take every so many steps of those")
    add_amount(group, "--batch-size", "batch_size", "pictures at once; guidance doubles them")
    images = "recorded pictures that the activation grids are made from"
    add_amount(group, "--statistics-images", "statistics_images", images)
    add_amount(group, "--statistics-stride", "statistics_stride", "take every so many steps of those")
    add_numbers(group, {"--seed": (0, "of learned rounding")})
    group.add_argument(
        "--keep-work",
        action="store_true",
        help="keep work/ whole when all is done: block inputs, activation statistics, codes as npz files",
    )
    group = flags.add_argument_group("model")
    add_model_choice(group, model, f"default: {model}")
    add_model_path(group)
    add_dtype(group, "of the float weights (default: the model's choice)")
    add_run_flags(flags)


def list_presets(args: argparse.Namespace) -> None:
    """Prints the presets, a line each."""
    without_effect(args, "with --list", *(set(args.given) - {"list", "json"}))
    told = {name: read_recipe(name).about for name in presets()}
    if args.json:
        say(json.dumps(told))
        return
    for name, about in told.items():
        say(f"{name:<16}{about}")


def carry_out(args: argparse.Namespace, recipe: Recipe) -> None:
    """Writes the checkpoint of a recipe and prints how good it is, or with --dry-run what it will take."""
    images = read_images(args.calib_dir)
    if args.out.resolve() == args.calib_dir.resolve():
        raise UserError("--out", got="the folder of the calibration data", expected="one of its own")
    model = model_from(args)
    if args.blocks is not None:
        anatomy = model.skeleton().anatomy
        recipe = blocks_alone(recipe, anatomy.blocks, anatomy.first_blocks(args.blocks))
    amounts = _amounts(args, images)
    activation_method(recipe)
    tuning_of(recipe.tuning, f"recipe {recipe.name}")
    check_storable(model.skeleton(), recipe)
    steps = len(range(0, len(images.sigmas), amounts.inputs.stride)) if recipe.activations else 0
    told = forecast(model, recipe, cache_meta(model, images, amounts.cache), steps)
    refuse_begun(args.out / WORK / "plan.json", args, args.out)
    there = bytes_in(args.out) if args.resume or args.force else 0
    needed = told.cache + told.codes + told.checkpoint - there
    check_space(args.out, needed, "use a greater --stride or another --out")
    if args.dry_run:
        cost = told.cost + calibration_cost(model, images, recipe, amounts)
        machine = machine_for(model, SOLVER_ROWS, *cache_meta(model, images, amounts.cache)["latents"])
        disk = cost.bytes + told.streams + told.checkpoint
        _print_forecast(args, recipe, told, told_of(machine, cost, disk))
        return
    with lock(args.out):
        _carry_out(args, images, model, recipe, amounts)


def _carry_out(
    args: argparse.Namespace,
    images: ImageSet,
    model: TextToImage,
    recipe: Recipe,
    amounts: CalibrationAmounts,
) -> None:
    work: Path = args.out / WORK
    if args.force:
        remove(*(args.out / name for name in CONTENTS), *args.out.glob("model*.safetensors"))
    if (args.out / "config.json").exists() and not (work / "plan.json").exists():
        raise UserError(str(args.out), got="another checkpoint", remedy="use --force or another --out")
    asked = {"model": model.name, "calibration": images.digest, "recipe": recipe.to_json(), "seed": args.seed}
    asked[plan.WEIGHTS] = weights_digest(model.network())
    plan.begin(work / "plan.json", {**asked, "amounts": amounts.as_json()}, args.resume, threads=True)
    started = time.perf_counter()
    made = _finished(args)
    if made is None:
        remove(args.out / "config.json")
        made = _quantized(args, model, images, recipe, amounts)
        write_json(args.out / "report.json", read_json(work / "quantized" / "report.json"))
        write_folder(args.out, model.network(), made)
    if not args.keep_work:
        remove(work / CACHE, work / ACTIVATIONS, work / "quantized")
    files = [*args.out.glob("model*.safetensors"), *(args.out / name for name in CHECKPOINT)]
    size = sum(file.stat().st_size for file in files if file.exists())
    _report(args, model, recipe, made, size, time.perf_counter() - started)


def _finished(args: argparse.Namespace) -> QuantizedCheckpoint | None:
    """What an earlier run of the same plan has finished; None: there is something to do."""
    if not (args.out / "config.json").exists():
        return None
    try:
        return read_folder(args.out)
    except UserError as error:
        warnings.warn(f"{error}; the checkpoint is made again", stacklevel=2)
        return None


def _quantized(
    args: argparse.Namespace,
    model: TextToImage,
    images: ImageSet,
    recipe: Recipe,
    amounts: CalibrationAmounts,
) -> QuantizedCheckpoint:
    """Calibrates and quantizes under a bar for each part."""
    tuning = tuning_of(recipe.tuning, f"recipe {recipe.name}")
    with Bars() as bars:
        calibration = calibrated(model, images, recipe, amounts, args.out / WORK, bars.advance)
        return quantize(
            model,
            recipe,
            calibration,
            args.out / WORK / "quantized",
            True,
            args.seed,
            on_iteration=lambda block, iteration, loss: bars.note(f"block {block}, {iteration}"),
            on_block=lambda block, report: bars.advance("blocks", 1, calibration.cache.blocks),
            on_tuning=lambda step, loss: bars.advance("tuning", 1, tuning.steps if tuning else 0),
        )


def _recipe(args: argparse.Namespace) -> Recipe:
    if args.recipe is None:
        raise UserError("--recipe", got="none", expected=f"a .json file, or one of {', '.join(presets())}")
    return read_recipe(args.recipe)


def _amounts(args: argparse.Namespace, images: ImageSet) -> CalibrationAmounts:
    usual = calibration_amounts(args.model, len(images.manifest["prompts"]))
    names = ("num_images", "stride", "batch_size", "statistics_images", "statistics_stride")
    given = {name: getattr(args, name) for name in names}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def _print_forecast(args: argparse.Namespace, recipe: Recipe, expected: Forecast, told: Told) -> None:
    if args.json:
        say(json.dumps({"recipe": recipe.name, "output": str(args.out), **expected.facts, **told.facts}))
        return
    layers = ", ".join(f"{count} by {name}" for name, count in expected.layers.items())
    say(f"recipe {recipe.name}: {recipe.about or 'no description'}")
    say(f"layers: {layers}; calibration: {expected.rows} rows of {args.calib_dir}")
    say(
        f"{told} in {args.out} until all is done, of which {size_words(expected.checkpoint)} of checkpoint are kept"
    )


def _report(
    args: argparse.Namespace,
    model: TextToImage,
    recipe: Recipe,
    made: QuantizedCheckpoint,
    size: int,
    seconds: float,
) -> None:
    bits = size_of(model, made).bits_per_weight
    before, after = made.meta["block_error_rounding"], made.meta["block_error"]
    fallbacks = len(made.meta["fallbacks"])
    if args.json:
        facts: dict[str, Any] = {"output": str(args.out), "recipe": recipe.name, "bytes": size}
        facts |= {"bits_per_weight": bits, "layers": len(made.weights), "block_error": after}
        facts |= {"block_error_rounding": before, "fallbacks": fallbacks, "seconds": round(seconds, 3)}
        say(json.dumps(facts))
        return
    ratio = "" if not before else f", block error {after:.2e} ({after / before:.2f} of rounding's)"
    fell = f", {fallbacks} layers with a fallback (report.json)" if fallbacks else ""
    say(
        f"{recipe.name}: {len(made.weights)} layers at {bits:.2f} bits{ratio}{fell}, {size / 1e6:,.1f} MB, "
        f"{seconds:.1f} s: {args.out}"
    )
