"""`scripts/03_benchmark.py`: the GPTQ baseline's third step; a quantized checkpoint against the float model."""

import argparse
import json
import time
import warnings
from pathlib import Path

from ditq import checkpoint
from ditq.cli import values
from ditq.cli.flags import (
    add_batch_size,
    add_model_flags,
    add_out,
    add_prompts_file,
    add_run_flags,
    add_sampler_flags,
)
from ditq.cli.given import model_from, prompts_in, settings_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import lock, remove, write_figure, write_text
from ditq.evaluation import (
    DEFAULT_METRICS,
    FIRST_SEED,
    METRICS,
    EvalReport,
    Variant,
    evaluate,
    evaluation_prompts,
    float_variant,
    floor_sentence,
    markdown,
    quantized_variant,
    rows,
    size_sentence,
    write_report,
)
from ditq.models import TextToImage

PICTURES = {"mini": 32}
"""By model, where the baseline's 5000 are more than is needed."""
CONTENTS = ("pictures", "report.json", "report.md", "psnr.png")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and measures."""
    flags = parser(
        "Measure a quantized checkpoint against the float model: size, time per step, peak memory, and how far its "
        "pictures are from the float ones at the same prompts and seeds.",
        "python scripts/03_benchmark.py --num_images 5000 --batch_size 4 --output_dir ./results",
    )
    flags.add_argument(
        "--checkpoint",
        "--quantized-model",
        type=values.folder,
        default=Path("quantized_model"),
        metavar="DIR",
        help="what step 2 wrote (default: quantized_model)",
    )
    flags.add_argument(
        "--num-images",
        type=values.whole("--num-images"),
        metavar="N",
        help="pictures (default: 5000; mini: 32)",
    )
    add_batch_size(flags)
    add_out(flags, "results")
    add_prompts_file(
        flags, " (default: our own, which calibration never uses); repeated with new seeds as needed"
    )
    flags.add_argument(
        "--metrics",
        nargs="+",
        default=DEFAULT_METRICS,
        choices=list(METRICS),
        metavar="NAME",
        help=f"of {', '.join(METRICS)} (default: {' '.join(DEFAULT_METRICS)})",
    )
    add_sampler_flags(flags)
    flags.set_defaults(seed=FIRST_SEED)
    add_model_flags(flags, default="mini")
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: carry_out(args), args)


def carry_out(args: argparse.Namespace) -> None:
    """Writes report.json, report.md and psnr.png, and prints the table."""
    count = PICTURES.get(args.model, 5000) if args.num_images is None else args.num_images
    model = model_from(args)
    settings = settings_from(args, model)
    own = prompts_in(args.prompts_file) if args.prompts_file else evaluation_prompts(model.name)
    if args.prompts_file and len(own) > count:
        warnings.warn(
            f"{args.prompts_file}: {count} of its {len(own)} prompts are drawn (--num-images)", stacklevel=2
        )
    prompts = [own[i % len(own)] for i in range(count)]
    variants = variants_of(args.checkpoint, model)
    if (args.out / "pictures").exists() and not (args.resume or args.force):
        remedy = "use --resume, --force or another --output-dir"
        raise UserError(str(args.out), got="files of an earlier run", remedy=remedy)
    if args.dry_run:
        facts = {
            "pictures": count,
            "steps": settings.steps,
            "variants": len(variants),
            "output": str(args.out),
        }
        of = (
            f"of {settings.steps} steps with each of {len(variants)} variants, and again with the float model"
        )
        tell(args, facts, f"would draw {count} pictures {of}: {args.out}")
        return
    started = time.perf_counter()
    with lock(args.out), Progress((len(variants) + 1) * count, "picture", "benchmark") as bar:
        if args.force:
            remove(*(args.out / name for name in CONTENTS))
        report = evaluate(
            model,
            variants,
            prompts,
            [args.seed + i for i in range(count)],
            settings,
            args.out / "pictures",
            args.batch_size,
            args.metrics,
            bar.advance,
        )
        _write(args.out, report)
    _print(args, report, time.perf_counter() - started)


def variants_of(folder: Path, model: TextToImage) -> list[Variant]:
    """The float model, the checkpoint's weights alone, and with its activation grids where it has some."""
    made = checkpoint.load(folder)
    bits = sorted({weight.spec.bits for weight in made.weights.values()})
    name = "W" + "/".join(map(str, bits))
    found = [float_variant(model), quantized_variant(f"{name}A16", model, made, activations=False)]
    if made.activations is not None:
        found.append(quantized_variant(f"{name}, activations quantized", model, made))
    return found


def _write(out: Path, report: EvalReport) -> None:
    from ditq.plots.comparison import scores_by_variant  # matplotlib takes a second

    write_report(out / "report.json", report)
    told = [size_sentence(report, variant.name) for variant in report.variants]
    floor = [floor_sentence(report)] if "psnr" in report.units else []
    write_text(out / "report.md", "\n\n".join([markdown(rows(report)), *told, *floor]) + "\n")
    if floor:
        scores = {variant.name: variant.scores["psnr"] for variant in report.variants}
        write_figure(out / "psnr.png", scores_by_variant(told[-1], scores, "PSNR, dB"))


def _print(args: argparse.Namespace, report: EvalReport, seconds: float) -> None:
    if args.json:
        say(json.dumps({"output": str(args.out), "seconds": round(seconds, 1), **report.as_json()}))
        return
    float_ms = 1000 * report.reference.seconds_per_step
    say(markdown(rows(report)))
    peaks = ", ".join(
        f"{one.name} {one.peak_memory / 1e6:.0f} MB" for one in [report.reference, *report.variants]
    )
    say(f"float: {float_ms:.1f} ms per step; peak memory while drawing: {peaks}")
    last = report.variants[-1]
    score = f", median PSNR {last.spread('psnr').median:.1f} dB" if "psnr" in report.units else ""
    say(f"{len(report.prompts)} pictures, {last.name}{score}, {seconds:.1f} s: {args.out}")
