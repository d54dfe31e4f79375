"""`scripts/01_collect_calibration_data.py`: the GPTQ baseline's first step, under its own flags."""

from pathlib import Path

from ditq.cli.flags import add_model_flags, add_run_flags, add_sampler_flags, parser
from ditq.cli.generate_calibration_data import collect
from ditq.cli.run import run

SAMPLES = {"mini": 32}
"""Trajectories by model, where the baseline's 256 are more than is needed."""


def main(argv: list[str] | None = None) -> None:
    """Parses the flags and fills the folder."""
    flags = parser(
        "Record whole denoising trajectories: step 1 of the GPTQ baseline. The same as generate_calibration_data.",
        "python scripts/01_collect_calibration_data.py --num_samples 256 --batch_size 4 "
        "--output_dir ./calibration_data",
    )
    flags.add_argument(
        "--num-samples",
        "--num-images",
        dest="num_images",
        type=int,
        metavar="N",
        help="trajectories (default: 256; mini: 32)",
    )
    flags.add_argument("--batch-size", type=int, default=4, metavar="N", help="pictures at once (default: 4)")
    flags.add_argument(
        "--output-dir",
        "--calib-dir",
        dest="calib_dir",
        type=Path,
        default=Path("calibration_data"),
        metavar="DIR",
        help="default: calibration_data",
    )
    flags.add_argument(
        "--prompts-file", type=Path, metavar="FILE", help="one prompt per line (default: twenty of our own)"
    )
    add_sampler_flags(flags)
    add_model_flags(flags, default="mini")
    add_run_flags(flags)
    args = flags.parse_args(argv)
    args.num_images = SAMPLES.get(args.model, 256) if args.num_images is None else args.num_images
    run(lambda: collect(args))
