"""`python -m src.collect_layer_activations`: step 2A, what each layer receives at each timestep."""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from ditq.calibration import ImageSet, read_images
from ditq.cli.flags import DTYPES, add_run_flags, parser
from ditq.cli.progress import Progress
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import remove
from ditq.diagnostics import InputRecipe, collect_inputs, inputs_forecast, merge_inputs
from ditq.diagnostics.layer_files import CONTENTS, FOLDER
from ditq.models import MODELS, TextToImage, load


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and collects, or merges."""
    flags = parser(
        "Replay calibration pictures and keep statistics of what every block's linear layers receive.",
        "python -m src.collect_layer_activations --calib-dir calibration_data --num-images 5 --stride 2",
    )
    default = Path("calibration_data")
    flags.add_argument(
        "--calib-dir",
        type=Path,
        default=default,
        metavar="DIR",
        help=f"what step 1 wrote (default: {default})",
    )
    flags.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="default: the folder activations in --calib-dir"
    )
    flags.add_argument(
        "--merge", type=Path, nargs="+", metavar="DIR", help="instead: add up the folders of several runs"
    )
    group = flags.add_argument_group("recipe")
    numbers = {
        "--num-images": (InputRecipe.num_images, "pictures to replay"),
        "--stride": (InputRecipe.stride, "replay every N-th step"),
        "--batch-size": (InputRecipe.batch_size, "pictures at once; guidance doubles them"),
        "--sample-values": (InputRecipe.sample_values, "values kept whole per layer and timestep"),
    }
    for flag, (number, meaning) in numbers.items():
        group.add_argument(flag, type=int, default=number, metavar="N", help=f"{meaning} (default: {number})")
    group.add_argument(
        "--inputs",
        default="all",
        choices=["all", "postgelu"],
        help="every linear layer of the blocks, or what every fc2 receives (default: all)",
    )
    group.add_argument(
        "--shard", default="0/1", metavar="K/N", help="replay every N-th picture from the K-th on, to merge"
    )
    model = flags.add_argument_group("model (named by the calibration data)")
    model.add_argument("--model", choices=list(MODELS), help="refuse calibration data of another one")
    model.add_argument(
        "--model-path", type=Path, metavar="DIR", help="a local folder in place of the download"
    )
    model.add_argument(
        "--dtype", choices=list(DTYPES), help="the transformer's dtype (default: the model's choice)"
    )
    add_run_flags(flags)
    args = flags.parse_args(argv)
    run(lambda: merge_folders(args) if args.merge else collect(args))


def collect(args: argparse.Namespace) -> None:
    """Writes the folder and prints what is in it."""
    recipe = InputRecipe(
        args.num_images, args.stride, args.batch_size, args.inputs, args.sample_values, shard(args.shard)
    )
    output = args.output_dir or args.calib_dir / "activations"
    images = read_images(args.calib_dir)
    model = _model(args, images)
    if args.dry_run:
        print(f"{inputs_forecast(model, images, recipe)}: {output}")
        return
    if args.force:
        remove(*(output / name for name in CONTENTS))
    started = time.perf_counter()
    steps = len(range(0, len(images.sigmas), recipe.stride))
    total = len(recipe.images(len(images.manifest["prompts"]))) * steps
    with Progress(total, "forward", model.name) as bar:
        manifest = collect_inputs(model, images, recipe, output, args.resume, bar.advance)
    _report(args, manifest, output, time.perf_counter() - started)


def merge_folders(args: argparse.Namespace) -> None:
    """Writes the sum of several folders and prints what is in it."""
    if args.output_dir is None:
        raise UserError("--output-dir", got="none", expected="where the merged statistics go")
    if args.dry_run:
        print(f"would add up {len(args.merge)} folders: {args.output_dir}")
        return
    if args.output_dir.resolve() in [folder.resolve() for folder in args.merge]:
        raise UserError(
            "--output-dir", got=args.output_dir, expected="another folder than those that are merged"
        )
    if args.force:
        remove(*(args.output_dir / name for name in CONTENTS))
    started = time.perf_counter()
    manifest = merge_inputs(args.merge, args.output_dir, args.resume)
    _report(args, manifest, args.output_dir, time.perf_counter() - started)


def shard(text: str) -> tuple[int, int]:
    """(K, N) of "K/N"."""
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise UserError("--shard", got=text, expected="K/N, such as 0/2")
    return int(parts[0]), int(parts[1])


def _model(args: argparse.Namespace, images: ImageSet) -> TextToImage:
    name = images.manifest["model"]
    if args.model not in (None, name):
        raise UserError(f"--model {args.model}", got=f"calibration data of {name} in {args.calib_dir}")
    return load(name, args.model_path, DTYPES[args.dtype] if args.dtype else None)


def _report(args: argparse.Namespace, manifest: dict[str, Any], output: Path, seconds: float) -> None:
    size = sum(file.stat().st_size for file in (output / FOLDER).iterdir())
    images, steps, layers = len(manifest["images"]), len(manifest["step_keys"]), len(manifest["layers"])
    if args.json:
        facts = {"output": str(output), "images": images, "steps": steps, "layers": layers}
        print(json.dumps({**facts, "bytes": size, "seconds": round(seconds, 3)}))
        return
    print(
        f"{images} pictures x {steps} steps, {layers} layers, {size / 1e6:.1f} MB, {seconds:.1f} s: {output}"
    )
