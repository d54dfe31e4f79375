"""`python -m src.adaround_optimize`: step 3W, learned rounding of every block's weights."""

import argparse
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ditq.activations.quant_config import read_quant_config
from ditq.calibration import BlockCache, read_block_cache
from ditq.cli.flags import DTYPES, add_run_flags, parser
from ditq.cli.run import run
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_text, remove, write_figure
from ditq.core.spec import GROUP_SIZES, Spec
from ditq.models import TextToImage, load
from ditq.plots.adaround import block_errors, loss_curves
from ditq.quantization import CONTENTS, WeightTrack, quantize_weights
from ditq.weights import AdaRound
from ditq.weights.cost import forecast

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
        type=Path,
        default=place,
        metavar="DIR",
        help=f"what cache_adaround_data wrote (default: {place})",
    )
    flags.add_argument(
        "--output-dir",
        type=Path,
        default=Path("adaround_output"),
        metavar="DIR",
        help="default: adaround_output",
    )
    add_grid_flags(flags)
    group = flags.add_argument_group("optimisation")
    for field in fields(AdaRound):
        kind, metavar = (int, "N") if isinstance(field.default, int) else (float, "X")
        name = FLAGS.get(field.name, field.name).replace("_", "-")
        text = f"{field.metadata['help']} (default: {field.default})"
        group.add_argument(f"--{name}", type=kind, default=field.default, metavar=metavar, help=text)
    group.add_argument("--seed", type=int, default=0, metavar="N", help="of batches and mixing (default: 0)")
    group.add_argument(
        "--blocks", type=int, nargs="+", metavar="N", help="quantize only these (default: all)"
    )
    model = flags.add_argument_group("model (named by the cache)")
    model.add_argument(
        "--model-path", type=Path, metavar="DIR", help="a local folder in place of the download"
    )
    model.add_argument(
        "--dtype",
        choices=list(DTYPES),
        help="of the float weights as they are loaded; all is computed in float32",
    )
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: optimise(args))


def add_grid_flags(flags: argparse.ArgumentParser) -> None:
    """--bits-w, --bits-a, --group-size, --asymmetric, --quant-config."""
    group = flags.add_argument_group("grids")
    group.add_argument("--bits-w", type=int, default=4, metavar="N", help="weights, 2 to 8 (default: 4)")
    group.add_argument(
        "--bits-a",
        type=int,
        default=8,
        metavar="N",
        help="layers' inputs, 4 to 8, or 16 to leave them (default: 8)",
    )
    group.add_argument(
        "--group-size",
        default="none",
        choices=["none", *map(str, GROUP_SIZES)],
        help="columns that share a scale (default: none, one scale per output channel)",
    )
    group.add_argument("--asymmetric", action="store_true", help="grids with a zero point")
    group.add_argument(
        "--quant-config",
        type=Path,
        metavar="FILE",
        help="what analyze_activations wrote: its grids and smoothing in place of learned static grids",
    )


def optimise(args: argparse.Namespace) -> None:
    """Writes the blocks, config.json and the figures, and prints how good they are."""
    track = track_from(args)
    cache = read_block_cache(args.cache_dir)
    model = load(cache.meta["model"], args.model_path, DTYPES[args.dtype] if args.dtype else None)
    chosen = track.chosen(cache.blocks)
    if args.dry_run:
        told = forecast(
            model.config, cache.meta, len(cache), len(chosen), args.iters, args.batch_size, track.spec
        )
        print(json.dumps(told.facts) if args.json else f"{told}; {args.output_dir}")
        return
    if args.force:
        remove(*(args.output_dir / name for name in CONTENTS))
    config = with_bars(args, model, cache, track)
    write_figure(args.output_dir / "adaround_loss.png", loss_curves(config))
    write_figure(args.output_dir / "adaround_errors.png", block_errors(config))
    report(args, config)


def with_bars(
    args: argparse.Namespace, model: TextToImage, cache: BlockCache, track: WeightTrack
) -> dict[str, Any]:
    """Runs the track with a bar per block that shows its loss; returns the configuration."""
    bars: dict[int, tqdm] = {}

    def on_iteration(block: int, iteration: int, loss: float) -> None:
        if block not in bars:
            bars[block] = tqdm(total=args.iters, desc=f"block {block}", unit="it", disable=None)
        bars[block].update()
        bars[block].set_postfix_str(f"loss {loss:.3f} of rounding's", refresh=False)

    def on_block(block: int, told: dict[str, Any]) -> None:
        if block in bars:
            bars[block].set_postfix_str(_ratio(told))
            bars[block].close()

    try:
        return quantize_weights(
            model.transformer(), cache, track, args.output_dir, args.resume, on_iteration, on_block
        )
    finally:
        for bar in bars.values():
            bar.close()


def track_from(args: argparse.Namespace) -> WeightTrack:
    """The weight track that the flags name."""
    if args.seed < 0:
        raise UserError("--seed", got=args.seed, expected="0 or more")
    values = {field.name: getattr(args, FLAGS.get(field.name, field.name)) for field in fields(AdaRound)}
    table, digest = None, ""
    if args.quant_config is not None:
        table, digest = read_quant_config(args.quant_config), plan.digest(read_text(args.quant_config))
    return WeightTrack(
        method=AdaRound(**values),
        spec=Spec(
            args.bits_w, not args.asymmetric, None if args.group_size == "none" else int(args.group_size)
        ),
        activation_bits=args.bits_a,
        table=table,
        table_digest=digest,
        blocks=None if args.blocks is None else tuple(args.blocks),
        seed=args.seed,
    )


def report(args: argparse.Namespace, config: dict[str, Any]) -> None:
    """The command's last line."""
    if args.json:
        names = ("model", "bits_w", "bits_a", "error_rounding", "error", "kept_rounding", "seconds")
        facts = {name: config[name] for name in names}
        print(json.dumps({**facts, "output": str(args.output_dir)}))
        return
    kept = f", rounding kept in blocks {config['kept_rounding']}" if config["kept_rounding"] else ""
    seconds = "" if config["seconds"] is None else f", {config['seconds']:.1f} s"
    print(
        f"{len(config['per_block'])} blocks W{config['bits_w']}A{config['bits_a']}, "
        f"mean error {_ratio(config)}{kept}{seconds}: {args.output_dir}"
    )


def _ratio(told: dict[str, Any]) -> str:
    before, after = told["error_rounding"], told["error"]
    return f"{before:.2e} -> {after:.2e} ({after / before:.2f} of rounding's)"
