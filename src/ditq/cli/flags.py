"""Flag groups shared by all commands, so that the same flag has the same name and meaning everywhere."""

import argparse
import re
import sys
from pathlib import Path

import mlx.core as mx

from ditq.calibration import prompt_lines
from ditq.core.errors import UserError
from ditq.models import MODELS, TextToImage, load
from ditq.models.cost import parameter_count, sampling_seconds
from ditq.sampling.generate import Settings, settings_for
from ditq.sampling.schedules import SCHEDULES

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example, and which takes `--old_spelling` for `--old-spelling`.

    The command is called what the example begins with: `python -m MODULE` or `python FILE`.
    """
    words = example.split()
    return _Parser(
        prog=" ".join(words[: 3 if words[1] == "-m" else 2]),
        description=description,
        epilog=f"example:\n  {example}",
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


def add_model_flags(flags: argparse.ArgumentParser, default: str) -> None:
    """--model, --model-path, --dtype, --text-encoders."""
    group = flags.add_argument_group("model")
    help_text = f"which model (default: {default}; mini is embedded and needs no download)"
    group.add_argument("--model", default=default, choices=list(MODELS), help=help_text)
    group.add_argument(
        "--model-path", type=Path, metavar="DIR", help="a local folder in place of the download"
    )
    group.add_argument(
        "--dtype", choices=list(DTYPES), help="the transformer's dtype (default: the model's choice)"
    )
    group.add_argument(
        "--text-encoders",
        default="all",
        choices=["all", "clip"],
        help="clip leaves out T5, which needs 9.5 GB",
    )


def model_from(args: argparse.Namespace) -> TextToImage:
    """The model that the flags name."""
    return load(args.model, args.model_path, DTYPES[args.dtype] if args.dtype else None, args.text_encoders)


def model_forecast(args: argparse.Namespace, model: TextToImage, settings: Settings, pictures: int) -> str:
    """Memory of the transformer and a rough time for its denoise steps, for --dry-run."""
    parameters, dtype = parameter_count(model.config), args.dtype or "float16"
    height, width = settings.height // model.factor, settings.width // model.factor
    seconds = sampling_seconds(model, pictures, settings.steps, settings.guidance > 1, height, width)
    return (
        f"transformer: {parameters / 1e6:,.1f} M parameters, "
        f"{parameters * DTYPES[dtype].size / 1e9:.2f} GB as {dtype}; "
        f"denoising: {_duration(seconds)} or more by this device's matrix speed"
    )


def _duration(seconds: float) -> str:
    hours, minutes = seconds / 3600, seconds / 60
    return f"{hours:.1f} h" if hours >= 1 else f"{minutes:.0f} min" if minutes >= 1 else f"{seconds:.0f} s"


def add_sampler_flags(
    flags: argparse.ArgumentParser, steps: int | None = None, guidance: float | None = None
) -> None:
    """--steps, --cfg-weight, --size, --shift, --schedule, --negative, --seed."""
    group = flags.add_argument_group("sampling (default: the model's own)")
    told = [f" (default: {value})" if value is not None else "" for value in (steps, guidance)]
    group.add_argument(
        "--steps", "--num-steps", type=int, default=steps, metavar="N", help=f"Euler steps{told[0]}"
    )
    group.add_argument(
        "--cfg-weight", type=float, default=guidance, metavar="W", help=f"guidance; 1 or less: none{told[1]}"
    )
    group.add_argument("--size", metavar="PIXELS", help="side of the picture, or WIDTHxHEIGHT")
    group.add_argument("--shift", type=float, help="sigma shift")
    group.add_argument("--schedule", choices=list(SCHEDULES), help="grid of the noise levels")
    group.add_argument("--negative", default="", metavar="PROMPT", help="what guidance leads away from")
    group.add_argument(
        "--seed", type=int, default=0, help="seed of the first picture; each next one adds 1 (default: 0)"
    )


def settings_from(args: argparse.Namespace, model: TextToImage) -> Settings:
    """The sampler settings that the flags name, for this model."""
    if args.seed < 0:
        raise UserError("--seed", got=args.seed, expected="0 or more")
    width, height = _size(args.size) if args.size is not None else (None, None)
    return settings_for(
        model, height, width, args.steps, args.cfg_weight, args.shift, args.schedule, args.negative
    )


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.lower())
    if not found:
        raise UserError("--size", got=text, expected="pixels, such as 512, or WIDTHxHEIGHT, such as 768x512")
    return int(found[1]), int(found[2] or found[1])


def add_prompt_flags(flags: argparse.ArgumentParser) -> None:
    """Prompts as words of the command line, or --prompts-file."""
    flags.add_argument("prompts", nargs="*", metavar="PROMPT", help="what to draw")
    flags.add_argument(
        "--prompts-file", type=Path, metavar="FILE", help="one prompt per line; # starts a comment line"
    )


def prompts_in(path: Path) -> list[str]:
    """The prompts of a file. Raises UserError when there are none."""
    prompts = prompt_lines(path)
    if not prompts:
        raise UserError(str(path), got="no prompts", expected="one prompt per line")
    return prompts


def prompts_from(args: argparse.Namespace) -> list[str]:
    """The prompts of the command line, then those of the file. Raises UserError when there are none."""
    prompts = list(args.prompts)
    if args.prompts_file is not None:
        prompts += prompts_in(args.prompts_file)
    if not prompts:
        raise UserError("prompts", got="none", remedy="give some in quotes, or --prompts-file FILE")
    if any(not prompt.strip() for prompt in prompts):
        raise UserError("prompts", got="an empty prompt", expected="words")
    return prompts


def refuse_overwriting(path: Path, force: bool) -> None:
    """Raises UserError when `path` is there and --force was not given."""
    if path.exists() and not force:
        raise UserError(str(path), got="a file from an earlier run", remedy="use --force or another place")


def add_run_flags(flags: argparse.ArgumentParser, resume: bool = True) -> None:
    """--force, --resume (unless the command is too short for it), --dry-run, --json."""
    group = flags.add_argument_group("run")
    again = group.add_mutually_exclusive_group()
    again.add_argument("--force", action="store_true", help="replace what an earlier run wrote")
    if resume:
        again.add_argument(
            "--resume", action="store_true", help="keep what an earlier run finished, and go on"
        )
    group.add_argument("--dry-run", action="store_true", help="say what would be computed, and stop")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
