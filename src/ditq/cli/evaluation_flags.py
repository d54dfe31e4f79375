"""The flags of `python -m src.evaluate` and of the commands that do the same with other amounts."""

import argparse
from pathlib import Path

from ditq.cli import values
from ditq.cli.flags import (
    add_batch_size,
    add_model_flags,
    add_out,
    add_prompts_file,
    add_run_flags,
    add_sampler_flags,
)
from ditq.cli.parsing import parser
from ditq.evaluation import DEFAULT_METRICS, FIRST_SEED, METRICS
from ditq.evaluation.gate import LIMITS
from ditq.evaluation.metrics.sets import FEWEST

PICTURES = 32
"""Drawn unless the user says otherwise."""
AMOUNTS = {
    "--num-trajectories": (
        4,
        "float trajectories along which errors are measured by noise level, block and layer",
    ),
    "--num-flat": (2, "pictures of flat scenes, at half, once and twice the steps"),
    "--num-timed": (5, "pictures that time and memory are measured on, after one to warm up"),
}


def evaluate_flags(example: str, pictures: str) -> argparse.ArgumentParser:
    """The parser of this command; `pictures` tells the default of --num-prompts."""
    flags = parser(
        "Measure quantized checkpoints against the float model: how far their pictures are at the same prompts and "
        "seeds, where along the trajectory and in which layer errors arise, noise in flat areas, time, memory, size. "
        "Writes report.json, report.md, figures, index.html and a model card for each checkpoint.",
        example,
    )
    flags.add_argument(
        "--checkpoint",
        "--quantized-model",
        type=values.folder,
        nargs="+",
        default=[Path("quantized_model")],
        metavar="DIR",
        help="checkpoint folders, or what adaround_optimize wrote (default: quantized_model)",
    )
    add_prompts_file(flags, " (default: our own, which calibration never uses)", "--prompts")
    flags.add_argument(
        "--num-prompts",
        "--num-images",
        dest="num_images",
        type=values.whole("--num-prompts"),
        metavar="N",
        help=f"pictures, each with a seed of its own; prompts repeat as needed (default: {pictures})",
    )
    add_batch_size(flags)
    add_out(flags, "results")
    group = flags.add_argument_group("what is measured")
    group.add_argument(
        "--metrics",
        nargs="+",
        default=DEFAULT_METRICS,
        choices=list(METRICS),
        metavar="NAME",
        help=f"of {', '.join(METRICS)} (default: {' '.join(DEFAULT_METRICS)})",
    )
    group.add_argument(
        "--reference",
        type=values.folder,
        metavar="DIR",
        help=f"{FEWEST} pictures or more that those of each variant are compared with as a set (default: the float "
        "model's from other seeds, where the model brings a classifier and as many are drawn)",
    )
    for flag, (count, meaning) in AMOUNTS.items():
        text = f"{meaning}; 0 leaves this out (default: {count})"
        group.add_argument(flag, type=values.whole(flag), default=count, metavar="N", help=text)
    group = flags.add_argument_group("limits: a checkpoint beyond one ends the command with status 1")
    for limit in LIMITS.values():
        text = f"{limit.title}{', a fraction' if limit.most else ''}"
        group.add_argument(limit.flag, type=values.number(limit.flag), metavar="X", help=text)
    add_sampler_flags(flags)
    flags.set_defaults(seed=FIRST_SEED)
    add_model_flags(flags, default="mini")
    add_run_flags(flags)
    return flags
