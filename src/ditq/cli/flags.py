"""Flags shared by all commands: the same flag has the same name and meaning everywhere, and is defined here once."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ditq.cli import values
from ditq.core.errors import UserError
from ditq.core.files import lock
from ditq.core.spec import GROUP_SIZES
from ditq.models import MODELS
from ditq.quantization.amounts import amounts_for, told
from ditq.sampling.schedules import PROCESSES
from ditq.sampling.steppers import STEPPERS

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
CALIBRATION = "calibration_data"
"""Where calibration data lies unless the user says otherwise."""
Flags = argparse.ArgumentParser | argparse._ArgumentGroup


def add_numbers(
    flags: Flags,
    numbers: Mapping[str, tuple[int | float, str]],
    kind: type[int] | type[float] = int,
    unset: bool = False,
) -> None:
    """A flag for each entry, flag -> (default, meaning); `unset`: None where the user does not give it."""
    metavar = "N" if kind is int else "X"
    for flag, (default, meaning) in numbers.items():
        shown = f"{default:g}" if kind is float else default
        text = f"{meaning} (default: {shown})"
        read = values.whole(flag) if kind is int else values.number(flag)
        flags.add_argument(flag, type=read, default=None if unset else default, metavar=metavar, help=text)


def add_amount(flags: Flags, flag: str, field: str, meaning: str, *more_names: str) -> None:
    """A flag for a field of `Amounts`, None where the user does not give it; its help tells the defaults by model."""
    add_count(flags, flag, f"{meaning} (default: {told(field)})", *more_names)


def amount(given: Any, model: str, field: str, available: int | None = None) -> Any:
    """What the user gave, or else the model's own amount, of which at most as much as is there."""
    if given is not None:
        return given
    usual = getattr(amounts_for(model), field)
    return usual if available is None else min(usual, available)


def add_count(flags: Flags, flag: str, meaning: str, *more_names: str) -> None:
    """A flag that takes a whole number, and is None where the user does not give it."""
    flags.add_argument(flag, *more_names, type=values.whole(flag), metavar="N", help=meaning)


def add_file(flags: Flags, flag: str, default: str | None, meaning: str | None = None) -> None:
    """A flag that takes the path of a file."""
    text = f"{meaning} (default: {default})" if meaning and default else meaning or f"default: {default}"
    place = None if default is None else Path(default)
    flags.add_argument(flag, type=values.file, default=place, metavar="FILE", help=text)


def add_model_flags(flags: argparse.ArgumentParser, default: str) -> None:
    """--model, --model-path, --dtype, --text-encoders."""
    group = flags.add_argument_group("model")
    add_model_choice(
        group, default, f"which model (default: {default}; mini is embedded and needs no download)"
    )
    add_model_path(group)
    add_dtype(group)
    add_text_encoders(group)


def add_model_choice(flags: Flags, default: str | None, meaning: str) -> None:
    """--model."""
    flags.add_argument("--model", default=default, choices=list(MODELS), help=meaning)


def add_model_path(flags: Flags) -> None:
    """--model-path and --offline."""
    flags.add_argument(
        "--model-path", type=values.path, metavar="DIR", help="a local folder in place of the download"
    )
    text = "download nothing, as with HF_HUB_OFFLINE=1"
    flags.add_argument("--offline", action="store_true", help=text)


def add_dtype(flags: Flags, meaning: str = "the transformer's dtype (default: the model's choice)") -> None:
    """--dtype."""
    flags.add_argument("--dtype", choices=list(DTYPES), help=meaning)


def add_text_encoders(flags: Flags) -> None:
    """--text-encoders."""
    text = "clip leaves out T5, which needs 9.5 GB"
    flags.add_argument("--text-encoders", default="all", choices=["all", "clip"], help=text)


def add_sampler_flags(
    flags: argparse.ArgumentParser, steps: int | str | None = None, guidance: float | str | None = None
) -> None:
    """--steps, --cfg-weight, --size, --shift, --schedule, --sampler, --negative, --seed.

    A default that is a text is told in the help alone.
    """
    group = flags.add_argument_group("sampling (default: the model's own)")
    shown = [f" (default: {value})" if value is not None else "" for value in (steps, guidance)]
    group.add_argument(
        *("--steps", "--num-steps"),
        type=values.whole("--steps"),
        default=None if isinstance(steps, str) else steps,
        metavar="N",
        help=f"denoising steps{shown[0]}",
    )
    group.add_argument(
        "--cfg-weight",
        type=values.number("--cfg-weight"),
        default=None if isinstance(guidance, str) else guidance,
        metavar="W",
        help=f"guidance; 1 or less: none{shown[1]}",
    )
    group.add_argument(
        "--size", type=values.size, metavar="PIXELS", help="side of the picture, or WIDTHxHEIGHT"
    )
    group.add_argument("--shift", type=values.number("--shift"), metavar="X", help="sigma shift")
    grids = dict.fromkeys(name for process in PROCESSES.values() for name in process.grids)
    group.add_argument("--schedule", choices=list(grids), help="grid of the noise levels")
    group.add_argument("--sampler", choices=list(STEPPERS), help="how a step is taken")
    text = "what guidance leads away from"
    group.add_argument("--negative", type=values.text, default="", metavar="PROMPT", help=text)
    add_numbers(group, {"--seed": (0, "seed of the first picture; each next one adds 1")})


def add_recipe(flags: Flags, default: str | None, meaning: str) -> None:
    """--recipe."""
    flags.add_argument("--recipe", type=values.name_or_file, default=default, metavar="NAME", help=meaning)


def add_batch_size(flags: Flags, default: int = 4) -> None:
    """--batch-size."""
    add_numbers(flags, {"--batch-size": (default, "pictures at once")})


def add_prompt_flags(flags: argparse.ArgumentParser) -> None:
    """Prompts as words of the command line, or --prompts-file."""
    flags.add_argument("prompts", nargs="*", type=values.text, metavar="PROMPT", help="what to draw")
    add_prompts_file(flags, "; # starts a comment line")


def add_prompts_file(flags: Flags, more: str = " (default: twenty of our own)", *more_names: str) -> None:
    """--prompts-file, also under the names of `more_names`."""
    text = f"one prompt per line{more}"
    flags.add_argument("--prompts-file", *more_names, type=values.file, metavar="FILE", help=text)


def add_calibration(
    flags: Flags, meaning: str = "what generate_calibration_data wrote", *more_names: str
) -> None:
    """--calib-dir, the folder of calibration data, under all names that it ever had."""
    flags.add_argument(
        "--calib-dir",
        "--calib",
        "--calibration-data",
        *more_names,
        type=values.folder,
        default=Path(CALIBRATION),
        metavar="DIR",
        help=f"{meaning} (default: {CALIBRATION})",
    )


def add_out(
    flags: Flags, default: str | None = None, meaning: str | None = None, required: bool = False
) -> None:
    """--out, the folder that the command writes."""
    flags.add_argument(
        "--out",
        "--output-dir",
        type=values.folder,
        default=None if default is None else Path(default),
        required=required,
        metavar="DIR",
        help=meaning or f"default: {default}",
    )


def add_group_size(flags: Flags) -> None:
    """--group-size of the weights; `group_size` reads it."""
    flags.add_argument(
        "--group-size",
        default="none",
        choices=["none", *map(str, GROUP_SIZES)],
        help="columns that share a scale (default: none, one scale per output channel)",
    )


def group_size(args: argparse.Namespace) -> int | None:
    """What --group-size says; None: one scale per output channel."""
    return None if args.group_size == "none" else int(args.group_size)


def add_asymmetric(flags: Flags) -> None:
    """--asymmetric."""
    flags.add_argument("--asymmetric", action="store_true", help="grids with a zero point")


def add_shard(flags: Flags, meaning: str) -> None:
    """--shard K/N, as (K, N)."""
    flags.add_argument("--shard", type=values.shard, default=(0, 1), metavar="K/N", help=meaning)


def add_run_flags(flags: argparse.ArgumentParser, resume: bool = True) -> argparse._ArgumentGroup:
    """--force, --resume (unless the command is too short for it), --dry-run, --json; their group."""
    group = flags.add_argument_group("run")
    again = group.add_mutually_exclusive_group()
    again.add_argument("--force", action="store_true", help="replace what an earlier run wrote")
    if resume:
        again.add_argument(
            "--resume", action="store_true", help="keep what an earlier run finished, and go on"
        )
    group.add_argument("--dry-run", action="store_true", help="say what would be computed, and stop")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    return group


def refuse_overwriting(path: Path, args: argparse.Namespace, resume: bool = False) -> None:
    """Raises UserError when `path` is there and the user gave neither --force nor, where it may help, --resume."""
    if path.exists() and not args.force and not (resume and args.resume):
        ways = "--resume, --force" if resume else "--force"
        raise UserError(str(path), got="a file from an earlier run", remedy=f"use {ways} or another place")


def refuse_begun(plan: Path, args: argparse.Namespace, folder: Path | None = None) -> None:
    """Raises UserError when a run began a folder with this plan, and the user gave neither --resume nor --force.

    The run itself would say the same (`core.plan.begin`), but --dry-run shall say it too, and before a model is loaded.
    A run that is still going on in `folder` (None: the plan's own) is told as that.
    """
    if plan.exists() and not (args.force or args.resume):
        with lock(folder or plan.parent):
            pass
        remedy = "use --resume, --force or another place"
        raise UserError(str(plan.parent), got="files of an earlier run", remedy=remedy)
