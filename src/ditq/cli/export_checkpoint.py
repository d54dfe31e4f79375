"""`python -m src.export_checkpoint`: a quantized model as the folder that stock MLX loaders read."""

import argparse
import json
import time
from dataclasses import replace

from ditq import checkpoint
from ditq.checkpoint import check_writable, outline, write_folder
from ditq.checkpoint.mlx_folder.size import folder_bytes
from ditq.checkpoint.mlx_folder.stored import SCALES
from ditq.cli import values
from ditq.cli.flags import (
    DTYPES,
    add_dtype,
    add_model_path,
    add_out,
    add_run_flags,
    add_text_encoders,
)
from ditq.cli.forecasts import told_of
from ditq.cli.given import model_from
from ditq.cli.output import say, tell
from ditq.cli.parsing import parser, without_effect
from ditq.cli.run import run
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.files import lock
from ditq.models.cost import parameter_count
from ditq.models.probe import probe_alone

PACKING = 30
"""Element-wise operations that rounding, packing and digesting a weight take as long as."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and exports."""
    flags = parser(
        "Write the quantized transformer as packed safetensors with a config.json in MLX's convention: stock loaders "
        "read it as a model with quantized weights (W4A16), ditq with its activation grids as well (W4A8).",
        "python -m src.export_checkpoint --adaround-output adaround_output --out mini-w4a8",
    )
    add_source_flags(flags)
    add_out(flags, meaning="the folder to write", required=True)
    flags.add_argument(
        "--scales",
        choices=list(SCALES),
        help="dtype of the stored scales (default: for each layer float16 where that moves none of its values, as in "
        "all that this version quantizes, else float32); in layers of earlier versions float16 moves values by up to a "
        "hundredth of a step at 4 bits, a tenth at 8",
    )
    add_model_flags(flags, "of what is not quantized, in the file (default: float16)")
    add_run_flags(flags, resume=False)
    args = flags.parse_args(argv)
    run(lambda: export(args), args)


def export(args: argparse.Namespace) -> None:
    """Writes the folder and prints what it holds."""
    without_effect(args, "on the transformer, which alone is written", "text_encoders")
    if (args.out / "config.json").exists() and not args.force:
        raise UserError(
            str(args.out), got="a checkpoint from an earlier run", remedy="use --force or another --out"
        )
    parts = checkpoint.load(args.adaround_output, args.quant_config)
    model = model_from(args, parts.model)
    dtype = DTYPES[args.dtype or "float16"]
    _, layouts = check_writable(model.skeleton(), parts, dtype, args.scales)
    if args.dry_run:
        size = folder_bytes(model.skeleton(), parts, layouts, dtype)
        values = parameter_count(model.skeleton())
        cost = Cost(values=PACKING * values, bytes=size, files=2, memory=4.0 * size)
        told = told_of(replace(probe_alone(), weights=values * model.dtype.size), cost)
        facts = {**told.facts, "layers": len(parts.weights), "output": str(args.out)}
        tell(args, facts, f"would write {size / 1e6:,.2f} MB: {outline(parts)}; {told} in {args.out}")
        return
    started = time.perf_counter()
    with lock(args.out):
        files = write_folder(args.out, model.network(), parts, dtype, args.scales)
    size, seconds = sum(file.stat().st_size for file in files), time.perf_counter() - started
    if args.json:
        facts = {
            "output": str(args.out),
            "files": [file.name for file in files],
            "bytes": size,
            "layers": len(parts.weights),
            "bits_per_weight": outline(parts).bits_per_weight,
            "timesteps": outline(parts).timesteps,
            "seconds": round(seconds, 3),
        }
        say(json.dumps(facts))
        return
    say(f"{outline(parts)}, {size / 1e6:,.2f} MB in {len(files)} files, {seconds:.1f} s: {args.out}")


def add_source_flags(flags: argparse.ArgumentParser) -> None:
    """--adaround-output (or, for a folder that was exported, --checkpoint) and --quant-config."""
    group = flags.add_argument_group("what is quantized")
    group.add_argument(
        "--adaround-output",
        "--checkpoint",
        type=values.folder,
        required=True,
        metavar="DIR",
        help="what adaround_optimize or export_checkpoint wrote",
    )
    group.add_argument(
        "--quant-config",
        type=values.file,
        metavar="FILE",
        help="activation grids of analyze_activations, in place of those in the folder",
    )


def add_model_flags(
    flags: argparse.ArgumentParser, dtype: str = "of what is not quantized (default: the model's choice)"
) -> None:
    """--model-path, --dtype, --text-encoders; the model itself is named by the checkpoint."""
    group = flags.add_argument_group("model (named by the checkpoint)")
    add_model_path(group)
    add_dtype(group, dtype)
    add_text_encoders(group)
