"""`python -m src.compare_methods`: rounding, AdaRound, GPTQ, GPTQ-Sequential and Qronos, side by side."""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

from ditq.calibration import ImageSet, read_images
from ditq.calibration.block_caching import batches, cache_meta
from ditq.calibration.cache_cost import cache_cost
from ditq.cli import values
from ditq.cli.flags import (
    add_amount,
    add_asymmetric,
    add_batch_size,
    add_calibration,
    add_count,
    add_group_size,
    add_model_choice,
    add_model_path,
    add_numbers,
    add_out,
    add_run_flags,
    group_size,
    refuse_begun,
)
from ditq.cli.folders import begun
from ditq.cli.forecasts import figures_cost, kept_pictures_cost, machine_for_pictures, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core import plan
from ditq.core.cost import Cost
from ditq.core.files import write_figure, write_json, write_text
from ditq.core.recipe import plain_recipe
from ditq.core.spec import Spec
from ditq.evaluation import FIRST_SEED, evaluation_prompts
from ditq.evaluation.compare_methods import CONTENDERS, HELD_OUT_STEPS, Arena, Comparison, Contender, compare
from ditq.evaluation.method_tables import as_json, conclusion, page, rows
from ditq.models import TextToImage
from ditq.models.digest import weights_digest
from ditq.quantization import forecast
from ditq.quantization.preparation import CalibrationAmounts, calibrated, calibration_amounts
from ditq.sampling.generate import Settings, settings_for

CONTENTS = (
    "plan.json",
    "cache",
    "pictures",
    "errors",
    "methods.json",
    "methods.png",
    *(c.slug for c in CONTENDERS),
)
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and compares."""
    flags = parser(
        "Put the weights of a model on the same grids by every method, from the same calibration, and draw the same "
        "pictures with each.",
        "python -m src.compare_methods --model mini --calib calibration_data --out methods",
    )
    add_calibration(flags)
    add_out(flags, "methods")
    flags.add_argument(
        "--report", type=values.page, metavar="FILE", help="write a page (.md) and its figure (.png) there"
    )
    _add_grid_flags(flags)
    group = flags.add_argument_group("calibration and pictures")
    add_amount(
        group, "--num-images", "cache_images", "calibrate on these many; errors are taken on the others"
    )
    add_numbers(group, {"--num-held-out": (4, "recorded pictures for the errors")})
    add_amount(group, "--stride", "cache_stride", "take every so many steps")
    add_numbers(group, {"--num-prompts": (16, "pictures per row")})
    add_count(group, "--steps", "of the sampler (default: the model's)")
    add_batch_size(group)
    add_numbers(group, {"--seed": (0, "of learned rounding")})
    group = flags.add_argument_group("model")
    add_model_choice(group, "mini", "default: mini")
    add_model_path(group)
    add_run_flags(flags)
    args = flags.parse_args(argv)
    typed = sys.argv[1:] if argv is None else argv
    run(lambda: carry_out(args, typed), args)


def carry_out(args: argparse.Namespace, typed: Sequence[str]) -> None:
    """Writes methods.json and methods.png, the page if it is asked for, and prints the table."""
    images, model = read_images(args.calib_dir), model_from(args)
    amounts, contenders = _amounts(args, images), _contenders(args)
    settings = settings_for(model, steps=args.steps)
    chosen = {image for image, _ in amounts.cache.samples(images)}
    others = [image for image in range(len(images.manifest["prompts"])) if image not in chosen]
    held_out = others[: args.num_held_out]
    prompts = evaluation_prompts(model.name, args.num_prompts)
    refuse_begun(args.out / "plan.json", args)
    if not any(contender.method == "adaround" for contender in contenders):
        without_effect(args, "without adaround among --methods", "iters")
    if len(held_out) < args.num_held_out and "num_held_out" in args.given:
        left = f"only {len(held_out)} recorded pictures are left"
        warnings.warn(f"--num-held-out {args.num_held_out}: {left}", stacklevel=2)
    if args.dry_run:
        _print_forecast(args, model, images, amounts, contenders, settings)
        return
    asked = {
        "model": model.name,
        "calibration": images.digest,
        "amounts": amounts.as_json(),
        "seed": args.seed,
    }
    asked |= {"group_size": args.group_size, "symmetric": not args.asymmetric, "prompts": prompts}
    asked |= {"settings": settings.recorded(), plan.WEIGHTS: weights_digest(model.network())}
    started = time.perf_counter()
    with begun(args.out, "plan.json", CONTENTS if args.force else None):
        plan.begin(args.out / "plan.json", asked, args.resume, threads=True)
        found = _compared(args, model, images, amounts, contenders, settings, held_out, prompts)
        _write(args, found, typed)
    _report(args, found, time.perf_counter() - started)


def _compared(
    args: argparse.Namespace,
    model: TextToImage,
    images: ImageSet,
    amounts: CalibrationAmounts,
    contenders: list[Contender],
    settings: Settings,
    held_out: list[int],
    prompts: list[str],
) -> Comparison:
    """Calibrates, quantizes by every method and draws, under progress bars."""
    base = plain_recipe("comparison", "rtn", Spec(8))
    with Progress(len(amounts.cache.samples(images)), "sample", "block cache") as bar:
        calibration = calibrated(
            model, images, base, amounts, args.out, lambda _, count, __: bar.advance(count)
        )
    runs = len(args.bits) * len(contenders)
    with (
        Progress(runs * calibration.cache.blocks, "block", "methods") as blocks,
        Progress((runs + 2) * len(prompts), "picture", "pictures") as pictures,
    ):
        arena = Arena(
            model,
            calibration,
            args.out,
            not args.asymmetric,
            group_size(args),
            args.seed,
            blocks.advance,
        )
        seeds = [FIRST_SEED + i for i in range(len(prompts))]
        return compare(
            arena,
            contenders,
            args.bits,
            held_out,
            prompts,
            seeds,
            settings,
            args.batch_size,
            pictures.advance,
        )


def _add_grid_flags(flags: argparse.ArgumentParser) -> None:
    group = flags.add_argument_group("what is compared")
    group.add_argument(
        "--bits",
        type=values.whole("--bits"),
        nargs="+",
        default=[2, 3, 4, 6, 8],
        metavar="N",
        help="default: 2 3 4 6 8",
    )
    add_group_size(group)
    add_asymmetric(group)
    names = [contender.slug for contender in CONTENDERS]
    group.add_argument(
        "--methods", nargs="+", default=names, choices=names, metavar="NAME", help="default: all"
    )
    group.add_argument(
        "--iters",
        type=values.whole("--iters"),
        metavar="N",
        help="AdaRound's iterations per block (default: 1000)",
    )


def _contenders(args: argparse.Namespace) -> list[Contender]:
    chosen = [contender for contender in CONTENDERS if contender.slug in args.methods]
    if args.iters is None:
        return chosen
    return [replace(c, fields={"iterations": args.iters}) if c.method == "adaround" else c for c in chosen]


def _amounts(args: argparse.Namespace, images: ImageSet) -> CalibrationAmounts:
    """By default a fourth of the recorded pictures is left for the errors."""
    available = len(images.manifest["prompts"])
    usual = calibration_amounts(args.model, max(1, available - max(1, available // 4)))
    given = {"num_images": args.num_images, "stride": args.stride}
    return replace(usual, **{name: value for name, value in given.items() if value is not None})


def _print_forecast(
    args: argparse.Namespace,
    model: TextToImage,
    images: ImageSet,
    amounts: CalibrationAmounts,
    contenders: Sequence[Contender],
    settings: Settings,
) -> None:
    meta = cache_meta(model, images, amounts.cache)
    pictures = (len(contenders) * len(args.bits) + 2) * args.num_prompts
    cost = cache_cost(meta, len(batches(meta)), len(meta["samples"]))
    errors = Cost(rows=2 * HELD_OUT_STEPS * args.num_held_out * meta["rows_per_sample"])
    streams = 0
    for contender in contenders:
        recipe = plain_recipe(contender.name, contender.method, Spec(args.bits[0]), dict(contender.fields))
        expected = forecast(model, recipe, meta)
        cost += (expected.cost + errors).times(len(args.bits))
        streams = max(streams, expected.streams)
    cost += kept_pictures_cost(model, settings, pictures, args.batch_size) + figures_cost(1)
    told = told_of(machine_for_pictures(model, settings, args.batch_size), cost, cost.bytes + streams)
    facts = {"rows": len(contenders) * len(args.bits), "pictures": pictures, **told.facts}
    tell(
        args,
        {**facts, "output": str(args.out)},
        f"{len(contenders)} methods at {', '.join(map(str, args.bits))} bits, then {pictures} pictures of "
        f"{settings.steps} steps; {told} in {args.out}",
    )


def _write(args: argparse.Namespace, found: Comparison, typed: Sequence[str]) -> None:
    from ditq.plots.methods import figure_of  # matplotlib takes a second

    write_json(args.out / "methods.json", as_json(found))
    made = figure_of(found)
    write_figure(args.out / "methods.png", made)
    if args.report is None:
        return
    figure = args.report.with_suffix(".png")
    write_figure(figure, made)
    write_text(args.report, page(found, figure.name, _commands(args, typed)))


def _commands(args: argparse.Namespace, typed: Sequence[str]) -> str:
    """What draws the calibration's pictures, and this command without --force and --resume."""
    manifest = read_images(args.calib_dir).manifest
    recorded = (
        f"python -m src.generate_calibration_data --model {manifest['model']} --num-images {len(manifest['prompts'])} "
        f"--num-steps {manifest['num_steps']} --cfg-weight {manifest['cfg_weight']:g} --batch-size 8 \\\n"
        f"    --calib-dir {args.calib_dir}"
    )
    kept = [word for word in typed if word not in ("--force", "--resume")]
    return f"{recorded}\n{' '.join(['python -m src.compare_methods', *kept])}"


def _report(args: argparse.Namespace, found: Comparison, seconds: float) -> None:
    if args.json:
        say(json.dumps({"output": str(args.out), "seconds": round(seconds, 1), **as_json(found)}))
        return
    table = rows(found)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        cells = [
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        say("  ".join(cells))
    say(f"{conclusion(found)}, {seconds:.0f} s: {args.report or args.out}")
