"""Flags shared by all commands: the same flag has the same name and meaning everywhere, and is defined here once."""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.core.spec import GROUP_SIZES
from ditq.models import MODELS
from ditq.sampling.schedules import PROCESSES
from ditq.sampling.steppers import STEPPERS

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
CALIBRATION = "calibration_data"
"""Where calibration data lies unless the user says otherwise."""
Flags = argparse.ArgumentParser | argparse._ArgumentGroup
_program: ContextVar[str | None] = ContextVar("program", default=None)


@contextmanager
def called_as(program: str) -> Iterator[None]:
    """Parsers made inside call their command `program`, in usage and example."""
    token = _program.set(program)
    try:
        yield
    finally:
        _program.reset(token)


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example, and which takes `--old_spelling` for `--old-spelling`.

    The command is called what the example begins with, `python -m MODULE` or `python FILE`, unless `called_as` says
    otherwise.
    """
    words = example.split()
    written = " ".join(words[: 3 if words[1] == "-m" else 2])
    program = _program.get() or written
    return _Parser(
        prog=program,
        description=description,
        epilog=f"example:\n  {program}{example.removeprefix(written)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class _Parser(argparse.ArgumentParser):
    """Accepts underscores in flag names, as some published commands spell them."""

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        args = [_dashed(arg) for arg in (sys.argv[1:] if args is None else args)]
        return super().parse_known_args(args, namespace)


def _dashed(arg: str) -> str:
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else arg


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
        flags.add_argument(flag, type=kind, default=None if unset else default, metavar=metavar, help=text)


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
    """--model-path."""
    flags.add_argument(
        "--model-path", type=Path, metavar="DIR", help="a local folder in place of the download"
    )


def add_dtype(flags: Flags, meaning: str = "the transformer's dtype (default: the model's choice)") -> None:
    """--dtype."""
    flags.add_argument("--dtype", choices=list(DTYPES), help=meaning)


def add_text_encoders(flags: Flags) -> None:
    """--text-encoders."""
    text = "clip leaves out T5, which needs 9.5 GB"
    flags.add_argument("--text-encoders", default="all", choices=["all", "clip"], help=text)


def add_sampler_flags(
    flags: argparse.ArgumentParser, steps: int | None = None, guidance: float | None = None
) -> None:
    """--steps, --cfg-weight, --size, --shift, --schedule, --sampler, --negative, --seed."""
    group = flags.add_argument_group("sampling (default: the model's own)")
    told = [f" (default: {value})" if value is not None else "" for value in (steps, guidance)]
    group.add_argument(
        "--steps", "--num-steps", type=int, default=steps, metavar="N", help=f"denoising steps{told[0]}"
    )
    group.add_argument(
        "--cfg-weight", type=float, default=guidance, metavar="W", help=f"guidance; 1 or less: none{told[1]}"
    )
    group.add_argument("--size", metavar="PIXELS", help="side of the picture, or WIDTHxHEIGHT")
    group.add_argument("--shift", type=float, help="sigma shift")
    grids = dict.fromkeys(name for process in PROCESSES.values() for name in process.grids)
    group.add_argument("--schedule", choices=list(grids), help="grid of the noise levels")
    group.add_argument("--sampler", choices=list(STEPPERS), help="how a step is taken")
    group.add_argument("--negative", default="", metavar="PROMPT", help="what guidance leads away from")
    group.add_argument(
        "--seed", type=int, default=0, help="seed of the first picture; each next one adds 1 (default: 0)"
    )


def add_batch_size(flags: Flags, default: int = 4) -> None:
    """--batch-size."""
    add_numbers(flags, {"--batch-size": (default, "pictures at once")})


def add_prompt_flags(flags: argparse.ArgumentParser) -> None:
    """Prompts as words of the command line, or --prompts-file."""
    flags.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw")
    add_prompts_file(flags, "; # starts a comment line")


def add_prompts_file(flags: Flags, more: str = " (default: twenty of our own)") -> None:
    """--prompts-file."""
    flags.add_argument("--prompts-file", type=Path, metavar="FILE", help=f"one prompt per line{more}")


def add_calibration(
    flags: Flags, meaning: str = "what generate_calibration_data wrote", *more_names: str
) -> None:
    """--calib-dir, the folder of calibration data, under all names that it ever had."""
    flags.add_argument(
        "--calib-dir",
        "--calib",
        "--calibration-data",
        *more_names,
        type=Path,
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
        type=Path,
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
    """--shard K/N; `shard` reads it."""
    flags.add_argument("--shard", default="0/1", metavar="K/N", help=meaning)


def shard(args: argparse.Namespace) -> tuple[int, int]:
    """(K, N) of "K/N". Raises UserError for anything else."""
    found = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    if not found:
        raise UserError("--shard", got=args.shard, expected="K/N, such as 0/2 and 1/2")
    return int(found[1]), int(found[2])


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


def refuse_overwriting(path: Path, force: bool) -> None:
    """Raises UserError when `path` is there and --force was not given."""
    if path.exists() and not force:
        raise UserError(str(path), got="a file from an earlier run", remedy="use --force or another place")
