"""`python -m src.calibration_sample_generation.sample_cali_data`: the points of TaQ-DiT's recipe."""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

from ditq.calibration import PointRecipe, collect_points, default_prompts, defaults, parts_of
from ditq.cli import values
from ditq.cli.flags import (
    add_model_flags,
    add_numbers,
    add_prompts_file,
    add_run_flags,
    refuse_overwriting,
)
from ditq.cli.folders import parts_begun
from ditq.cli.forecasts import drawing_cost, machine_for_pictures, told_of
from ditq.cli.given import model_from, prompts_in
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.models import TextToImage
from ditq.models.cost import blank_conditioning


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and collects the points."""
    flags = parser(
        "Run denoising trajectories and keep a few evenly spread steps of each: the calibration set of TaQ-DiT.",
        "python -m src.calibration_sample_generation.sample_cali_data --model mini --output DiT_cali_data.npz",
    )
    flags.add_argument(
        "--output",
        "--out",
        type=values.file,
        default=Path("DiT_cali_data.npz"),
        metavar="FILE",
        help="default: DiT_cali_data.npz",
    )
    group = flags.add_argument_group("recipe")
    numbers = {
        "--num-fid-samples": (defaults.NUM_FID_SAMPLES, "trajectories"),
        "--num-sampling-steps": (defaults.NUM_SAMPLING_STEPS, "denoising steps of each"),
        "--num-selected-steps": (defaults.NUM_SELECTED_STEPS, "steps that are kept, evenly spread"),
        "--seed": (defaults.SEED, "seed of the first trajectory and of the shuffle"),
        "--batch-size": (1, "trajectories at once; guidance doubles it"),
    }
    add_numbers(group, numbers)
    group.add_argument(
        "--cfg-weight",
        "--cfg-scale",
        type=values.number("--cfg-weight"),
        default=defaults.CFG_SCALE,
        metavar="W",
        help="guidance (default: 1.5)",
    )
    group.add_argument(
        "--latent-size",
        type=values.whole("--latent-size"),
        metavar="CELLS",
        help="side of the latents (default: 32, for mini 16)",
    )
    add_prompts_file(group)
    add_model_flags(flags, default=defaults.MODEL)
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: collect(args), args)


def collect(args: argparse.Namespace) -> None:
    """Writes the calibration file and prints what is in it."""
    model = model_from(args)
    recipe = _recipe(args, model)
    prompts = prompts_in(args.prompts_file) if args.prompts_file else default_prompts(model.name)
    refuse_overwriting(args.output, args, resume=True)
    if args.dry_run:
        _forecast(args, model, recipe, prompts)
        return
    done = "nothing to do: " if args.resume and args.output.exists() else ""
    held, total = parts_begun(parts_of(args.output), args.force), recipe.trajectories * recipe.steps
    started = time.perf_counter()
    with held, Progress(total, "step", model.name) as bar:
        points = collect_points(model, prompts, recipe, args.output, args.resume, bar.advance)
    seconds, size = time.perf_counter() - started, args.output.stat().st_size
    if args.json:
        facts = {
            "output": str(args.output),
            "points": len(points),
            "xs": list(points.xs.shape),
            "bytes": size,
        }
        say(json.dumps({**facts, "prompts": len(points.prompts), "seconds": round(seconds, 3)}))
        return
    say(
        f"{done}{len(points):,} points ({recipe.trajectories} trajectories x {recipe.selected} of {recipe.steps} "
        f"steps), x {points.xs.shape[1:]}, {len(points.prompts)} prompts, {size / 1e6:.1f} MB, {seconds:.1f} s: "
        f"{args.output}"
    )


def _recipe(args: argparse.Namespace, model: TextToImage) -> PointRecipe:
    side = args.latent_size
    if side is None:
        side = min(defaults.LATENT_SIZE, model.defaults.size // model.geometry.factor)
    return PointRecipe(
        trajectories=args.num_fid_samples,
        steps=args.num_sampling_steps,
        selected=args.num_selected_steps,
        cfg_scale=args.cfg_weight,
        latent_size=side,
        seed=args.seed,
        batch_size=args.batch_size,
    )


def _forecast(args: argparse.Namespace, model: TextToImage, recipe: PointRecipe, prompts: list[str]) -> None:
    settings = recipe.settings(model)
    count = min(len(prompts), recipe.trajectories)
    latents = recipe.points * math.prod(settings.latent_shape(model.geometry)) * 2
    text = sum(array.size for array in blank_conditioning(model.geometry, 2 * count).arrays.values()) * 4
    drawn = drawing_cost(settings, recipe.trajectories, recipe.batch_size)
    cost = replace(drawn, bytes=2.0 * (latents + text), files=recipe.trajectories)
    told = told_of(machine_for_pictures(model, settings, recipe.batch_size), cost)
    facts = {"points": recipe.points, **told.facts, "output": str(args.output)}
    tell(
        args,
        facts,
        f"points to collect: {recipe.points:,}, "
        f"{recipe.trajectories} trajectories x {recipe.selected} of {recipe.steps} steps, "
        f"{count} prompts\n{told} until it is complete, then half of it: {args.output}",
    )
