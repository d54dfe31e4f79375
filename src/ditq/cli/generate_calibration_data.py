"""`python -m src.generate_calibration_data`: step 1, whole trajectories on disk for both calibration tracks."""

import argparse
import json
import time

from ditq.calibration import CONTENTS, ImageRecipe, collect_images, default_prompts
from ditq.calibration.images import collect_cost
from ditq.cli.flags import (
    add_amount,
    add_calibration,
    add_model_flags,
    add_prompts_file,
    add_run_flags,
    add_sampler_flags,
    amount,
    refuse_begun,
)
from ditq.cli.folders import begun
from ditq.cli.forecasts import PICTURE, Told, machine_for_pictures, picture_memory, told_of
from ditq.cli.given import model_from, prompts_in, settings_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.cost import Cost
from ditq.models import TextToImage
from ditq.quantization.amounts import told
from ditq.sampling.generate import Settings


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and fills the folder."""
    flags = parser(
        "Draw pictures and keep every latent of their trajectories: the calibration data of both tracks.",
        "python -m src.generate_calibration_data --model mini --num-images 8 --num-steps 28 --calib-dir data",
    )
    add_calibration(flags, "the folder to write")
    add_amount(flags, "--num-images", "images", "pictures")
    add_amount(flags, "--batch-size", "batch_size", "pictures at once")
    add_prompts_file(flags)
    add_sampler_flags(flags, steps=told("steps"), guidance=told("cfg_weight"))
    add_model_flags(flags, default="mini")
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: collect(args), args)


def collect(args: argparse.Namespace) -> None:
    """Writes the folder and prints what is in it."""
    model = model_from(args)
    args.steps = amount(args.steps, model.name, "steps")
    args.cfg_weight = amount(args.cfg_weight, model.name, "cfg_weight")
    settings = settings_from(args, model)
    count = amount(args.num_images, model.name, "images")
    recipe = ImageRecipe(count, args.seed, amount(args.batch_size, model.name, "batch_size"))
    prompts = prompts_in(args.prompts_file) if args.prompts_file else default_prompts(model.name)
    points = recipe.num_images * settings.steps
    refuse_begun(args.calib_dir / "manifest.json", args)
    if args.dry_run:
        expected = forecast(model, settings, recipe, len(prompts))
        facts = {"model": model.name, "trajectories": recipe.num_images, "points": points, **expected.facts}
        lines = [
            f"trajectories to record: {recipe.num_images} of {settings.width}x{settings.height}, {points:,} points",
            f"{expected} in {args.calib_dir}",
        ]
        tell(args, {**facts, "output": str(args.calib_dir)}, "\n".join(lines))
        return
    started = time.perf_counter()
    held = begun(args.calib_dir, "manifest.json", CONTENTS if args.force else None)
    with held, Progress(points, "step", model.name) as bar:
        drawn = collect_images(model, prompts, recipe, settings, args.calib_dir, args.resume, bar.advance)
    seconds = time.perf_counter() - started
    if args.json:
        say(
            json.dumps(
                {
                    "calib_dir": str(args.calib_dir),
                    "points": points,
                    "drawn": drawn,
                    "seconds": round(seconds, 3),
                }
            )
        )
        return
    say(
        f"{recipe.num_images} trajectories of {settings.steps} steps ({drawn} new), {seconds:.1f} s: {args.calib_dir}"
    )


def forecast(model: TextToImage, settings: Settings, recipe: ImageRecipe, prompts: int) -> Told:
    """What the run takes from the beginning."""
    machine = machine_for_pictures(model, settings, min(recipe.batch_size, recipe.num_images))
    return told_of(machine, recording_cost(model, settings, recipe, prompts))


def recording_cost(model: TextToImage, settings: Settings, recipe: ImageRecipe, prompts: int) -> Cost:
    """What recording takes, pictures included."""
    pixels = 3 * settings.width * settings.height
    pictures = Cost(
        bytes=PICTURE * recipe.num_images * pixels, memory=picture_memory(settings, recipe.batch_size)
    )
    return collect_cost(model, recipe, settings, prompts) + pictures
