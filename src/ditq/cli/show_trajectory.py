"""`python -m src.show_trajectory`: a figure of what the model saw along recorded trajectories."""

import argparse
from pathlib import Path

import mlx.core as mx
import numpy as np

from ditq.calibration import read_manifest, selected_steps
from ditq.cli import values
from ditq.cli.flags import add_calibration, add_model_path, add_numbers, refuse_overwriting
from ditq.cli.given import model_from
from ditq.cli.output import say
from ditq.cli.parsing import parser
from ditq.cli.run import run
from ditq.core.errors import UserError
from ditq.core.files import read_npy, read_npz, write_figure


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and writes the figure."""
    flags = parser(
        "Decode the latents of recorded trajectories, from noise to picture, into one figure.",
        "python -m src.show_trajectory --calib-dir calibration_data --images 0 1 2 --out trajectory.png",
    )
    add_calibration(flags)
    flags.add_argument(
        "--images",
        type=values.whole("--images", 0),
        nargs="+",
        default=[0],
        metavar="N",
        help="which pictures (default: 0)",
    )
    add_numbers(flags, {"--columns": (8, "steps to show")})
    flags.add_argument(
        "--out",
        type=values.figure,
        default=Path("trajectory.png"),
        metavar="FILE",
        help="default: trajectory.png",
    )
    add_model_path(flags)
    flags.add_argument("--force", action="store_true", help="replace an earlier figure")
    args = flags.parse_args(argv)
    run(lambda: show(args), args)


def show(args: argparse.Namespace) -> None:
    """Writes the figure and prints where."""
    from ditq.plots.trajectory import trajectory_figure  # matplotlib takes a second

    refuse_overwriting(args.out, args)
    manifest = read_manifest(args.calib_dir)
    beyond = [image for image in args.images if not 0 <= image < manifest["num_images"]]
    if beyond:
        raise UserError("--images", got=beyond[0], expected=f"from 0 to {manifest['num_images'] - 1}")
    steps = selected_steps(manifest["num_steps"], args.columns)
    model = model_from(args, manifest["model"])
    pictures = []
    for image in args.images:
        xs = [read_npz(args.calib_dir / "samples" / f"{image:04d}_{step:03d}.npz")["x"] for step in steps]
        final = read_npy(args.calib_dir / "latents" / f"{image:04d}.npy")[None]
        pictures.append(model.decode(mx.array(np.concatenate([*xs, final]).astype(np.float32))))
    sigmas = [*(manifest["sigmas"][step] for step in steps), manifest["sigmas"][-1]]
    prompts = [manifest["prompts"][image] for image in args.images]
    write_figure(args.out, trajectory_figure(np.stack(pictures), sigmas, prompts))
    say(f"{len(args.images)} trajectories at {len(sigmas)} noise levels: {args.out}")
