"""What each preset takes on disk and costs in the pictures of `mini`, and bits of adaLN and embedders one by one.

    python benchmarks/presets.py --work demo/presets --out docs/results/presets.md

Calibrates once, quantizes with every preset and with plain rounding of single roles, and draws prompts that nothing was
fitted on: about 25 minutes with `--prompts 24` on one core. Finished parts are kept in --work; run it again to go on.
"""

import argparse
import platform
import textwrap
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import ditq  # before mlx: loads a fast BLAS on Linux

# isort: split
import numpy as np

from ditq.calibration import ImageRecipe, collect_images, default_prompts, read_images
from ditq.checkpoint import QuantizedCheckpoint, write_folder
from ditq.cli.progress import Bars, Progress
from ditq.core.files import write_json, write_text
from ditq.core.platform import prepare
from ditq.core.recipe import Recipe, presets, read_recipe, recipe_from
from ditq.evaluation import (
    FIRST_SEED,
    comparison_sentence,
    evaluate,
    evaluation_prompts,
    float_variant,
    floor_sentence,
    markdown,
    quantized_variant,
    rows,
    write_report,
)
from ditq.models import load
from ditq.quantization import quantize
from ditq.quantization.preparation import calibrated, calibration_amounts
from ditq.sampling.generate import settings_for

ROLES = {"adaLN": "modulation", "embedders": "embedder", "head": "head"}
"""Roles that are rounded alone, the rest float, by the name in the table."""
BITS = (8, 6, 4)
BASELINE = "w4a8-rtn"
ABOUT = """\
Written by `python benchmarks/presets.py --prompts {prompts}`.
{prompts} prompts, none of them a combination of object and background that
training or calibration has seen; median and, in brackets, quartiles. MB: the bytes of all files of the checkpoint's
folder, on disk; the share is of the float16 transformer's file. Rows "adaLN", "embedders" and "head" round these layers
alone, in groups of 64, and leave all others float: they show how many bits such a layer needs. {images} calibration
pictures. {ran}.
"""


def alone(role: str, bits: int) -> Recipe:
    """Plain rounding of one role in groups of 64, all else float."""
    lines = [
        {"roles": [role], "method": "rtn", "bits": bits, "group_size": 64},
        {"paths": ["*"], "method": "float"},
    ]
    content = {"kind": "ditq.recipe", "version": 1, "layers": lines, "methods": {"rtn": {"search": True}}}
    return recipe_from(content, f"{role} {bits}", "presets.py")


def main() -> None:
    """Quantizes, draws, and writes the page."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--work", type=Path, default=Path("demo/presets"), help="finished parts")
    flags.add_argument("--out", type=Path, default=Path("docs/results/presets.md"), help="the page to write")
    flags.add_argument("--images", type=int, default=40, help="calibration pictures (default: 40)")
    flags.add_argument("--prompts", type=int, help="fewer than all evaluation prompts")
    flags.add_argument(
        "--only", nargs="+", metavar="RECIPE", help="presets or .json files in place of all rows"
    )
    args = flags.parse_args()
    model = load("mini")
    settings, prompts = settings_for(model), evaluation_prompts("mini", args.prompts)
    recorded = ImageRecipe(args.images, 0, min(args.images, 10))
    with Progress(args.images * settings.steps, "step", "calibration") as bar:
        collect_images(
            model, default_prompts("mini"), recorded, settings, args.work / "calibration", True, bar.advance
        )
    named = {name: read_recipe(name) for name in args.only or presets()}
    if not args.only:
        named |= {
            f"{title}, {bits} bits": alone(role, bits) for title, role in ROLES.items() for bits in BITS
        }
    variants = [float_variant(model)]
    for name, recipe in named.items():
        made = quantized(model, recipe, args.images, args.work, name)
        files = write_folder(args.work / "folders" / slug(name), model.network(), made)
        variant = quantized_variant(name, model, made, made.activations is not None)
        told, taken = variant.size.bytes, sum(file.stat().st_size for file in files)
        assert abs(told - taken) < 0.02 * taken, f"{name}: told {told} bytes, takes {taken}"
        variants.append(variant)
    seeds = [FIRST_SEED + i for i in range(len(prompts))]
    with Progress((len(variants) + 1) * len(prompts), "picture", "evaluation") as bar:
        report = evaluate(
            model, variants, prompts, seeds, settings, args.work / "evaluation", 8, on_picture=bar.advance
        )
    write_report(args.work / "report.json", report)
    versions = f"ditq {ditq.__version__}, MLX {version('mlx')}"
    ran = f"{versions}, {platform.machine()}, {prepare().device}, {prepare().blas}"
    about = ABOUT.format(prompts=len(prompts), images=args.images, ran=ran)
    table = [row[:-2] for row in rows(report)]
    squares = {one.name: float(np.mean(np.square(one.scores["latent_error"]))) for one in report.variants}
    gains = [
        wrapped(
            f"- {comparison_sentence(report, name, BASELINE, name, BASELINE)} The mean squared error of its "
            f"latents is {squares[name] / squares[BASELINE]:.2f} of {BASELINE}'s.",
            "  ",
        )
        for name in named
        if name in presets() and name != BASELINE
    ]
    parts = ["# The presets on `mini`", wrapped(about), markdown(table), wrapped(floor_sentence(report))]
    if BASELINE in named:
        parts.append("\n".join(gains))
    write_text(args.out, "\n\n".join(parts) + "\n")
    write_json(args.out.with_suffix(".json"), report.as_json())
    print(f"{len(variants)} variants x {len(prompts)} prompts: {args.out}")


def quantized(model, recipe: Recipe, images: int, work: Path, name: str) -> QuantizedCheckpoint:
    """The checkpoint of a recipe, from the recorded pictures."""
    amounts = replace(calibration_amounts("mini", images), num_images=images)
    folder = work / "runs" / slug(name)
    with Bars() as bars:
        calibration = calibrated(
            model, read_images(work / "calibration"), recipe, amounts, folder, bars.advance
        )
        return quantize(
            model,
            recipe,
            calibration,
            folder / "quantized",
            True,
            on_block=lambda block, report: bars.advance(name, 1, calibration.cache.blocks),
            on_tuning=lambda step, loss: bars.advance(
                f"{name}, tuning", 1, (recipe.tuning or {}).get("steps", 300)
            ),
        )


def slug(name: str) -> str:
    """A name for files."""
    return Path(name).stem.replace(", ", "-").replace(" ", "-").lower()


def wrapped(text: str, indent: str = "") -> str:
    """Lines of the length of the other documents, those behind the first indented."""
    return textwrap.fill(" ".join(text.split()), 118, subsequent_indent=indent, break_on_hyphens=False)


if __name__ == "__main__":
    main()
