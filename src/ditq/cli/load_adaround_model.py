"""`python -m src.load_adaround_model`: step 4, pictures of the quantized model, beside the float model's if asked."""

import argparse
import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq import checkpoint
from ditq.checkpoint import (
    FolderModel,
    Outline,
    QuantizedCheckpoint,
    QuantizedModel,
    is_folder,
    outline,
    outline_of_folder,
)
from ditq.checkpoint.weight_errors import weight_errors
from ditq.cli import values
from ditq.cli.export_checkpoint import add_model_flags, add_source_flags
from ditq.cli.flags import (
    add_batch_size,
    add_out,
    add_prompts_file,
    add_run_flags,
    add_sampler_flags,
)
from ditq.cli.generate import slug
from ditq.cli.given import model_from, prompts_from, settings_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import lock, write_figure, write_png
from ditq.evaluation.metrics import psnr, relative_error
from ditq.models import TextToImage
from ditq.sampling.generate import Settings, denoised

NAMES = {"v1": "V1: weights only", "v2": "V2: weights and activations"}
FLOAT = "float"
SHOWN = 5
"""Layers that --diff-stats prints; --json has them all."""


@dataclass(frozen=True)
class Drawn:
    """What one model drew for all prompts."""

    latents: np.ndarray
    pictures: np.ndarray


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and draws."""
    flags = parser(
        "Draw with a quantized model: V1 with quantized weights alone, V2 (true W4A8) on integer codes of activations "
        "as well, each layer and timestep on its own static grid.",
        "python -m src.load_adaround_model --adaround-output adaround_output "
        "--quant-config calibration_data/activations/quant_config.json --prompt 'a fox in the snow' "
        "--output-image fox.png --compare --diff-stats",
    )
    add_source_flags(flags)
    group = flags.add_argument_group("inference")
    group.add_argument(
        "--version", choices=list(NAMES), help="default: v2 where there are activation grids, else v1"
    )
    group.add_argument(
        "--backend",
        choices=["packed", "codes"],
        help="how layers multiply: MLX's packed words, or int8 codes as float32 (default: packed on a GPU)",
    )
    flags.add_argument(
        "--prompt",
        dest="prompts",
        action="append",
        default=[],
        type=values.text,
        metavar="TEXT",
        help="what to draw; may be repeated",
    )
    add_prompts_file(flags, "; # starts a comment line")
    group = flags.add_argument_group("output")
    group.add_argument(
        "--output-image", type=values.picture, metavar="FILE", help="the picture of a single prompt"
    )
    add_out(group, meaning="a picture per prompt")
    group.add_argument(
        "--compare",
        action="store_true",
        help="also a grid, float beside V1 and V2: FILE_comparison.png, or comparison.png in DIR",
    )
    group.add_argument(
        "--diff-stats",
        action="store_true",
        help="print how far pictures, latents and weights are from the float model",
    )
    add_model_flags(flags)
    add_sampler_flags(flags)
    add_batch_size(flags)
    add_run_flags(flags, resume=False)
    args = flags.parse_args(argv)
    run(lambda: draw(args), args)


def draw(args: argparse.Namespace) -> None:
    """Writes the pictures, and prints where they are and how far from the float model's."""
    prompts = prompts_from(args, "give --prompt 'a fox in the snow', or --prompts-file FILE")
    pictures, grid = _outputs(args, prompts)
    alone = not (args.compare or args.diff_stats or args.quant_config) and is_folder(args.adaround_output)
    parts = None if alone else checkpoint.load(args.adaround_output, args.quant_config)
    facts = outline_of_folder(args.adaround_output) if parts is None else outline(parts)
    version, versions = _versions(args, facts)
    if versions == ["v1"]:
        without_effect(args, "on the weights alone (V1)", "backend", "quant_config")
    model = model_from(args, facts.model)
    settings = settings_from(args, model)
    columns: list[str] = [FLOAT] * (args.compare or args.diff_stats) + versions
    if args.dry_run:
        what = ", ".join(NAMES.get(column, column) for column in columns)
        told = {"pictures": len(prompts), "columns": columns, "steps": settings.steps}
        text = f"would draw {len(prompts)} pictures with {facts} ({what}): {pictures[0].parent}"
        tell(args, {**told, "output": str(pictures[0].parent)}, text)
        return
    started = time.perf_counter()
    drawn: dict[str, Drawn] = {}
    batches = math.ceil(len(prompts) / args.batch_size) * len(columns)
    held = nullcontext() if args.out is None else lock(args.out)
    with held, Progress(batches * settings.steps, "step", model.name) as bar:
        for column in columns:
            opened = _opened(args, model, parts, column)
            drawn[column] = _draw(opened, prompts, settings, args, bar)
        for i, path in enumerate(pictures):
            told = _metadata(facts, version, settings, prompts[i], args.seed + i)
            write_png(path, drawn[version].pictures[i], told)
    scores = {c: _scores(drawn[FLOAT], drawn[c]) for c in versions} if FLOAT in drawn else {}
    if grid is not None:
        from ditq.plots.comparison import picture_grid  # matplotlib takes a second

        shown = {NAMES.get(column, column): drawn[column].pictures for column in columns}
        write_figure(grid, picture_grid(shown, prompts, {NAMES[c]: s["psnr_db"] for c, s in scores.items()}))
    layers = weight_errors(model.network(), parts) if args.diff_stats and parts else {}
    _report(args, facts, version, pictures, grid, scores, layers, time.perf_counter() - started)


def _outputs(args: argparse.Namespace, prompts: list[str]) -> tuple[list[Path], Path | None]:
    """A file per picture, and the comparison's; refuses to overwrite."""
    if (args.output_image is None) == (args.out is None):
        raise UserError("output", expected="--output-image FILE for one prompt, or --output-dir DIR")
    if args.output_image is not None:
        if len(prompts) > 1:
            raise UserError("--output-image", got=f"{len(prompts)} prompts", remedy="use --output-dir DIR")
        pictures, grid = (
            [args.output_image],
            args.output_image.with_name(f"{args.output_image.stem}_comparison.png"),
        )
    else:
        pictures = [args.out / f"{i:04d}_{slug(prompt)}.png" for i, prompt in enumerate(prompts)]
        grid = args.out / "comparison.png"
    grid = grid if args.compare else None
    for path in [*pictures, *([grid] if grid else [])]:
        if path.exists() and not args.force:
            raise UserError(
                str(path), got="a file from an earlier run", remedy="use --force or another place"
            )
    return pictures, grid


def _versions(args: argparse.Namespace, facts: Outline) -> tuple[str, list[str]]:
    """The version whose pictures are written, and all that are drawn."""
    version: str = args.version or ("v2" if facts.timesteps else "v1")
    if version == "v2" and not facts.timesteps:
        raise UserError(
            "--version v2",
            got=f"no activation grids in {args.adaround_output}",
            remedy="give --quant-config, or run adaround_optimize with --bits-a 8 and without --quant-config",
        )
    both = ["v1", "v2"] if facts.timesteps else ["v1"]
    return version, both if args.compare else [version]


def _opened(
    args: argparse.Namespace, model: TextToImage, parts: QuantizedCheckpoint | None, column: str
) -> TextToImage:
    """The model of one column; without `parts`, a folder that needs no float model."""
    if column == FLOAT:
        return model
    if parts is None:
        return FolderModel(model, args.adaround_output, column == "v2", args.backend)
    return QuantizedModel(model, parts, column == "v2", args.backend)


def _draw(
    model: TextToImage, prompts: list[str], settings: Settings, args: argparse.Namespace, bar: Progress
) -> Drawn:
    seeds = [args.seed + i for i in range(len(prompts))]
    batches = denoised(model, prompts, seeds, settings, args.batch_size, bar.advance)
    latents, pictures = zip(
        *((np.array(x.astype(mx.float32)), model.decode(x)) for x in batches), strict=True
    )
    return Drawn(np.concatenate(latents), np.concatenate(pictures))


def _scores(reference: Drawn, drawn: Drawn) -> dict[str, list[float]]:
    """Per picture: PSNR, relative error of the final latents, largest difference of a latent value."""
    pairs = list(zip(reference.latents, drawn.latents, strict=True))
    return {
        "psnr_db": [psnr(a, b) for a, b in zip(reference.pictures, drawn.pictures, strict=True)],
        "latent_relative_error": [relative_error(a, b) for a, b in pairs],
        "latent_max_abs": [float(np.abs(a - b).max()) for a, b in pairs],
    }


def _metadata(
    facts: Outline,
    version: str,
    settings: Settings,
    prompt: str,
    seed: int,
) -> dict[str, str]:
    return {
        "prompt": prompt,
        "seed": str(seed),
        "model": facts.model,
        "quantization": f"{NAMES[version]}; {facts}",
        **settings.as_text(),
        "software": f"ditq {ditq.__version__}",
    }


def _report(
    args: argparse.Namespace,
    facts: Outline,
    version: str,
    pictures: list[Path],
    grid: Path | None,
    scores: dict[str, dict[str, list[float]]],
    layers: dict[str, dict[str, float]],
    seconds: float,
) -> None:
    if args.json:
        result: dict[str, Any] = {
            "pictures": [str(path) for path in pictures],
            "comparison": None if grid is None else str(grid),
            "version": version,
            "scores": scores,
            "weight_errors": layers,
            "seconds": round(seconds, 3),
        }
        say(json.dumps(result))
        return
    for column, score in scores.items() if args.diff_stats else ():
        middle = {name: float(np.median(values)) for name, values in score.items()}
        say(
            f"{NAMES[column]}: PSNR {middle['psnr_db']:.1f} dB, latents off by {middle['latent_relative_error']:.1%}, "
            f"by {middle['latent_max_abs']:.2f} at most" + (" (medians)" if len(pictures) > 1 else "")
        )
    if layers:
        worst = sorted(layers, key=lambda path: -layers[path]["relative_error"])
        middle = float(np.median([entry["relative_error"] for entry in layers.values()]))
        say(f"weights of {len(layers)} layers: off by {middle:.1%} in the median; the most:")
        for path in worst[:SHOWN]:
            say(f"  {layers[path]['relative_error']:.1%}, {layers[path]['max_abs']:.4f} at most: {path}")
    beside = "" if grid is None else f", {grid}"
    say(f"{len(pictures)} drawn, {NAMES[version]}, {facts}, {seconds:.1f} s: {pictures[0]}{beside}")
