"""`scripts/01_collect_calibration_data.py`: the GPTQ baseline's first step, under its own flags."""

from ditq.cli import values
from ditq.cli.flags import (
    add_batch_size,
    add_calibration,
    add_model_flags,
    add_prompts_file,
    add_run_flags,
    add_sampler_flags,
)
from ditq.cli.generate_calibration_data import collect
from ditq.cli.parsing import parser
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
        type=values.whole("--num-images"),
        metavar="N",
        help="trajectories (default: 256; mini: 32)",
    )
    add_batch_size(flags)
    add_calibration(flags, "the folder to write", "--output-dir")
    add_prompts_file(flags)
    add_sampler_flags(flags)
    add_model_flags(flags, default="mini")
    add_run_flags(flags)
    args = flags.parse_args(argv)
    args.num_images = SAMPLES.get(args.model, 256) if args.num_images is None else args.num_images
    run(lambda: collect(args), args)
