"""`python -m src.measure_damage`: what errors in the layers' inputs cost at the end of a trajectory."""

import argparse
import json
import time
from pathlib import Path

from ditq.calibration import parts_of, read_images
from ditq.cli.flags import (
    CALIBRATION,
    add_batch_size,
    add_calibration,
    add_dtype,
    add_file,
    add_model_choice,
    add_model_path,
    add_numbers,
    add_run_flags,
    refuse_overwriting,
)
from ditq.cli.folders import parts_begun
from ditq.cli.forecasts import machine_for_images, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.diagnostics import Damage, DamageRecipe, damage_cost, measure_damage


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and measures."""
    flags = parser(
        "Measure what an error in each layer's input, at each step, does to the guided prediction (by gradients) and "
        "what is left of it at the end of the trajectory (by noise), for analyze_activations --damage.",
        "python -m src.measure_damage --model mini --calib-dir calibration_data",
    )
    add_calibration(flags, "what generate_calibration_data wrote", "--calibration")
    place = f"activations/damage.npz in --calib-dir, here {CALIBRATION}"
    add_file(flags, "--out", None, f"the file to write (default: {place})")
    group = flags.add_argument_group("recipe")
    counts = {
        "--num-images": (DamageRecipe.num_images, "pictures to replay"),
        "--stride": (DamageRecipe.stride, "gradients at every N-th step"),
        "--noise-steps": (DamageRecipe.noise_steps, "steps at which noise is added, evenly spread"),
        "--seed": (DamageRecipe.seed, "seed of the random signs and of the noise"),
    }
    add_numbers(group, counts)
    add_batch_size(group, DamageRecipe.batch_size)
    amplitude = (DamageRecipe.amplitude, "the noise, in parts of the prediction's root mean square")
    add_numbers(group, {"--amplitude": amplitude}, float)
    model = flags.add_argument_group("model (named by the calibration data)")
    add_model_choice(model, None, "refuse calibration data of another one")
    add_model_path(model)
    add_dtype(model)
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: measure(args), args)


def measure(args: argparse.Namespace) -> None:
    """Writes the file and prints which inputs cost most."""
    recipe = DamageRecipe(
        args.num_images, args.stride, args.noise_steps, args.amplitude, args.batch_size, args.seed
    )
    output: Path = args.out or args.calib_dir / "activations" / "damage.npz"
    images = read_images(args.calib_dir)
    name = images.manifest["model"]
    if args.model not in (None, name):
        raise UserError(f"--model {args.model}", got=f"calibration data of {name} in {args.calib_dir}")
    model = model_from(args, name)
    refuse_overwriting(output, args, resume=True)
    if args.dry_run:
        machine = machine_for_images(model, images, min(recipe.batch_size, recipe.num_images))
        told = told_of(machine, damage_cost(model, images, recipe))
        pictures, passes = len(recipe.images(images)), recipe.passes(images)
        text = (
            f"would measure every input on {pictures} pictures: gradients at {len(recipe.steps(images))} steps, noise "
            f"at {len(recipe.noisy(images))}; as much work as {passes:,} passes\n{told} in {output}"
        )
        tell(args, {"images": pictures, "passes": passes, **told.facts, "output": str(output)}, text)
        return
    finished = "nothing to do: " if args.resume and output.exists() else ""
    started = time.perf_counter()
    held = parts_begun(parts_of(output), args.force)
    with held, Progress(recipe.passes(images), "pass", f"damage of {model.name}") as bar:
        damage = measure_damage(model, images, recipe, output, args.resume, bar.advance)
    _report(args, damage, output, time.perf_counter() - started, finished)


def _report(args: argparse.Namespace, damage: Damage, output: Path, seconds: float, done: str) -> None:
    kept = damage.left(damage.trajectory)
    steps = {"most_left_at_step": int(kept.argmax()), "least_left_at_step": int(kept.argmin())}
    if args.json:
        facts = {"output": str(output), "inputs": len(damage.squares), "steps": len(damage.steps), **steps}
        say(json.dumps({**facts, "bytes": output.stat().st_size, "seconds": round(seconds, 3)}))
        return
    say(
        f"{done}{len(damage.squares)} inputs x {len(damage.steps)} steps; of an error of the prediction, "
        f"{kept.max():.2g} is left at the end from step {kept.argmax()} and {kept.min():.2g} from step "
        f"{kept.argmin()} (mean squares), {seconds:.1f} s: {output}"
    )
