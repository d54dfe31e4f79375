"""`python -m src.activation_diagnostics.profile_postgelu`: Phase 2, statistics of what layers receive."""

import argparse
import json
import time
import warnings
from pathlib import Path

from ditq.calibration import PointSet, read_points
from ditq.cli import values
from ditq.cli.flags import (
    add_dtype,
    add_model_path,
    add_numbers,
    add_run_flags,
    add_shard,
    refuse_overwriting,
)
from ditq.cli.folders import parts_begun
from ditq.cli.forecasts import machine_for, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.diagnostics import (
    ActivationStatistics,
    ProfileRecipe,
    merge,
    parts_of,
    profile,
    profile_forecast,
    read_statistics,
    write_statistics,
)
from ditq.models import TextToImage


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and profiles, or merges."""
    flags = parser(
        "Run a model on calibration points and keep statistics of what its layers receive at each timestep.",
        "python -m src.activation_diagnostics.profile_postgelu --calibration-file DiT_cali_data.npz --num-samples 512",
    )
    flags.add_argument(
        "--calibration-file", type=values.file, metavar="FILE", help="what sample_cali_data wrote"
    )
    flags.add_argument(
        "--merge",
        type=values.file,
        nargs="+",
        metavar="FILE",
        help="instead: add up the files of several --shard runs",
    )
    default = "activation_stats_postgelu.npz"
    flags.add_argument(
        "--output",
        "--out",
        type=values.file,
        default=Path(default),
        metavar="FILE",
        help=f"default: {default}",
    )
    group = flags.add_argument_group("recipe")
    numbers = {
        "--num-samples": (ProfileRecipe.num_samples, "calibration points, drawn without replacement"),
        "--seed": (ProfileRecipe.seed, "seed of the draw"),
        "--batch-size": (ProfileRecipe.batch_size, "points at once; guidance doubles them"),
    }
    add_numbers(group, numbers)
    group.add_argument(
        "--inputs",
        default="postgelu",
        choices=["postgelu", "all"],
        help="what every fc2 receives, or what every linear layer does (default: postgelu)",
    )
    add_shard(group, "run every N-th batch from the K-th on, to merge")
    model = flags.add_argument_group("model (named by the calibration file)")
    add_model_path(model)
    add_dtype(model)
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: merge_files(args) if args.merge else observe(args), args)


def observe(args: argparse.Namespace) -> None:
    """Writes the statistics and prints what is in them."""
    if args.calibration_file is None:
        raise UserError("--calibration-file", got="none", expected="a file of sample_cali_data")
    recipe = ProfileRecipe(args.num_samples, args.seed, args.batch_size, args.inputs, args.shard)
    refuse_overwriting(args.output, args, resume=True)
    points = read_points(args.calibration_file)
    model = _model(args, points)
    if recipe.num_samples > len(points):
        warnings.warn(
            f"--num-samples {recipe.num_samples}: the file holds {len(points)}, all are run", stacklevel=2
        )
    batches = recipe.batches(points)
    if args.dry_run:
        facts = {"points": sum(map(len, batches)), "of": len(points), "output": str(args.output)}
        text, cost = profile_forecast(model, points, recipe)
        rows = recipe.batch_size * (2 if points.cfg_scale > 1 else 1)
        told = told_of(machine_for(model, rows, *points.xs.shape[1:3]), cost)
        tell(args, {**facts, **told.facts}, f"{text}; {told} in {args.output}")
        return
    finished = "nothing to do: " if args.resume and args.output.exists() else ""
    started = time.perf_counter()
    held = parts_begun(parts_of(args.output), args.force)
    with held, Progress(sum(map(len, batches)), "point", model.name) as bar:
        statistics = profile(model, points, recipe, args.output, args.resume, bar.advance)
    _report(args, statistics, f"of {len(points):,} points", time.perf_counter() - started, finished)


def merge_files(args: argparse.Namespace) -> None:
    """Writes the sum of several files and prints what is in it."""
    own = (
        "calibration_file",
        "num_samples",
        "seed",
        "batch_size",
        "inputs",
        "shard",
        "model_path",
        "dtype",
        "resume",
    )
    without_effect(args, "with --merge", *own)
    refuse_overwriting(args.output, args)
    if args.dry_run:
        facts = {"files": list(map(str, args.merge)), "output": str(args.output)}
        tell(args, facts, f"would add up {len(args.merge)} files: {args.output}")
        return
    started = time.perf_counter()
    with parts_begun(parts_of(args.output), args.force):
        statistics = merge([read_statistics(path) for path in args.merge])
        write_statistics(args.output, statistics)
    _report(args, statistics, f"points of {len(args.merge)} files", time.perf_counter() - started)


def _report(
    args: argparse.Namespace, statistics: ActivationStatistics, source: str, seconds: float, done: str = ""
) -> None:
    layers, steps, size = len(statistics.layers), len(statistics.timesteps), args.output.stat().st_size
    if args.json:
        facts = {
            "output": str(args.output),
            "points": len(statistics.points),
            "layers": layers,
            "timesteps": steps,
        }
        say(json.dumps({**facts, "bytes": size, "seconds": round(seconds, 3)}))
        return
    say(
        f"{done}{len(statistics.points):,} {source}, {layers} layers x {steps} timesteps, "
        f"{size / 1e6:.1f} MB, {seconds:.1f} s: {args.output}"
    )


def _model(args: argparse.Namespace, points: PointSet) -> TextToImage:
    name = points.meta.get("model")
    if not isinstance(name, str):
        raise UserError(
            str(args.calibration_file), got="no name of a model", expected="a file of sample_cali_data"
        )
    return model_from(args, name)
