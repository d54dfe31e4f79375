"""`python -m src.adaround_optimize`: step 3W, learned rounding of every block's weights."""

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ditq.activations.quant_config import read_quant_config
from ditq.calibration import BlockCache, read_block_cache
from ditq.cli import values
from ditq.cli.flags import (
    add_amount,
    add_asymmetric,
    add_dtype,
    add_group_size,
    add_model_path,
    add_numbers,
    add_out,
    add_run_flags,
    amount,
    group_size,
    refuse_begun,
)
from ditq.cli.forecasts import SOLVER_ROWS, Told, figures_cost, machine_for, told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.progress import Bars
from ditq.cli.run import run
from ditq.core import plan
from ditq.core.files import lock, read_text, remove, write_figure
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.models import TextToImage
from ditq.quantization import CONTENTS, Forecast, WeightTrack, forecast, quantize_weights
from ditq.weights import AdaRound

FLAGS = {"iterations": "iters"}
"""Fields of AdaRound whose flag has another name."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and quantizes."""
    flags = parser(
        "Learn which way every weight rounds, block by block, so that each block's output stays what it was.",
        "python -m src.adaround_optimize --cache-dir adaround_cache --output-dir adaround_output --bits-w 4 --bits-a 8",
    )
    place = Path("calibration_data") / "adaround_cache"
    flags.add_argument(
        "--cache-dir",
        type=values.folder,
        default=place,
        metavar="DIR",
        help=f"what cache_adaround_data wrote (default: {place})",
    )
    add_out(flags, "adaround_output")
    add_grid_flags(flags)
    group = flags.add_argument_group("optimisation")
    for field in fields(AdaRound):
        name = FLAGS.get(field.name, field.name).replace("_", "-")
        if field.name == "iterations":
            add_amount(group, f"--{name}", "iterations", field.metadata["help"])
            continue
        default: Any = field.default
        kind = int if isinstance(default, int) else float
        add_numbers(group, {f"--{name}": (default, field.metadata["help"])}, kind)
    add_numbers(group, {"--seed": (0, "of batches and mixing")})
    group.add_argument(
        "--block-numbers",
        type=values.whole("--block-numbers", 0),
        nargs="+",
        metavar="N",
        help="quantize only these, counted from 0 (default: all)",
    )
    model = flags.add_argument_group("model (named by the cache)")
    add_model_path(model)
    add_dtype(model, "of the float weights as they are loaded; all is computed in float32")
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: optimise(args), args)


def add_grid_flags(flags: argparse.ArgumentParser) -> None:
    """--bits-w, --bits-a, --group-size, --asymmetric, --quant-config."""
    group = flags.add_argument_group("grids")
    meanings = {
        "--bits-w": (4, "weights, 2 to 8"),
        "--bits-a": (8, "layers' inputs, 4 to 8, or 16 to leave them"),
    }
    add_numbers(group, meanings)
    add_group_size(group)
    add_asymmetric(group)
    group.add_argument(
        "--quant-config",
        type=values.file,
        metavar="FILE",
        help="what analyze_activations wrote: its grids and smoothing in place of learned static grids",
    )


def optimise(args: argparse.Namespace) -> None:
    """Writes the blocks, config.json and the figures, and prints how good they are."""
    track = track_from(args)
    cache = read_block_cache(args.cache_dir)
    args.iters = amount(args.iters, cache.meta["model"], "iterations")
    assert isinstance(track.method, AdaRound)
    track = replace(track, method=replace(track.method, iterations=args.iters))
    model = model_from(args, cache.meta["model"])
    recipe = track.recipe(model.skeleton().anatomy)
    refuse_begun(args.out / "plan.json", args)
    if args.dry_run:
        print_forecast(args, forecast(model, recipe, cache.meta), told_for(model, cache, recipe))
        return
    with lock(args.out):
        if args.force:
            remove(*(args.out / name for name in CONTENTS))
        config = with_bars(args, model, cache, track)
        write_figures(args.out, config)
    report(args, config)


def write_figures(folder: Path, config: dict[str, Any]) -> None:
    """Writes the losses of all blocks, and their errors before and after, into the folder."""
    from ditq.plots.adaround import block_errors, loss_curves  # matplotlib takes a second

    write_figure(folder / "adaround_loss.png", loss_curves(config))
    write_figure(folder / "adaround_errors.png", block_errors(config))


def told_for(model: TextToImage, cache: BlockCache, recipe: Recipe) -> Told:
    """What the run takes on this machine."""
    expected = forecast(model, recipe, cache.meta)
    cost = expected.cost + figures_cost(2)
    machine = machine_for(model, min(SOLVER_ROWS, len(cache)), *cache.meta["latents"])
    return told_of(machine, cost, cost.bytes + expected.streams)


def print_forecast(args: argparse.Namespace, expected: Forecast, told: Told) -> None:
    """Prints blocks, iterations, time, memory and disk."""
    facts = {"blocks": expected.blocks, "iterations": args.iters, **told.facts, "output": str(args.out)}
    words = f"blocks to quantize: {expected.blocks}, {args.iters:,} iterations each; {told} in {args.out}"
    tell(args, facts, words)


def with_bars(
    args: argparse.Namespace, model: TextToImage, cache: BlockCache, track: WeightTrack
) -> dict[str, Any]:
    """Runs the track with a bar per block that shows its loss; returns the configuration."""
    with Bars() as bars:

        def on_iteration(block: int, iteration: int, loss: float) -> None:
            bars.advance(f"block {block}", 1, args.iters)
            bars.note(f"loss {loss:.3f} of rounding's")

        return quantize_weights(
            model.network(),
            cache,
            track,
            args.out,
            args.resume,
            on_iteration,
            lambda block, told: bars.note(_ratio(told)),
        )


def track_from(args: argparse.Namespace) -> WeightTrack:
    """The weight track that the flags name."""
    if not args.flips:
        without_effect(args, "without --flips", "flip_pull")
    if args.quant_config is not None or args.bits_a == 16:
        without_effect(args, "where no input grids are learned", "lr_scale")
    if args.quant_config is not None and args.bits_a != 8:
        without_effect(args, "with --quant-config, which says the bits", "bits_a")
    given = {field.name: getattr(args, FLAGS.get(field.name, field.name)) for field in fields(AdaRound)}
    values = {name: value for name, value in given.items() if value is not None}
    table, digest = None, ""
    if args.quant_config is not None:
        table, digest = read_quant_config(args.quant_config), plan.digest(read_text(args.quant_config))
    return WeightTrack(
        method=AdaRound(**values),
        spec=Spec(args.bits_w, not args.asymmetric, group_size(args)),
        activation_bits=args.bits_a,
        table=table,
        table_digest=digest,
        blocks=None if args.block_numbers is None else tuple(args.block_numbers),
        seed=args.seed,
    )


def report(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """The command's last line."""
    if args.json:
        names = ("model", "bits_w", "bits_a", "error_rounding", "error", "kept_rounding", "seconds")
        facts = {name: config[name] for name in names}
        say(json.dumps({**facts, "output": str(args.out)}))
        return
    kept = f", rounding kept in blocks {config['kept_rounding']}" if config["kept_rounding"] else ""
    seconds = "" if config["seconds"] is None else f", {config['seconds']:.1f} s"
    say(
        f"{len(config['per_block'])} blocks W{config['bits_w']}A{config['bits_a']}, "
        f"mean error {_ratio(config)}{kept}{seconds}: {args.out}"
    )


def _ratio(told: dict[str, Any]) -> str:
    before, after = told["error_rounding"], told["error"]
    return f"{before:.2e} -> {after:.2e} ({after / before:.2f} of rounding's)"
