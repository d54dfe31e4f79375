"""What the shared flags stand for: model, sampler settings and prompts."""

import argparse
import os
from pathlib import Path

from ditq.calibration import prompt_lines
from ditq.cli.flags import DTYPES
from ditq.cli.parsing import without_effect
from ditq.core.errors import UserError
from ditq.models import MODELS, WITH_T5, TextToImage, load
from ditq.sampling.generate import Settings, settings_for


def model_from(args: argparse.Namespace, name: str | None = None) -> TextToImage:
    """The model that the flags name, or the one called `name`, loaded as they say."""
    dtype = getattr(args, "dtype", None)
    name = str(args.model) if name is None else name
    if name in MODELS and name not in WITH_T5:
        without_effect(args, f"on {name}, which has no T5 to leave out", "text_encoders")
    if args.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub, which is imported when a file is wanted
    path = args.model_path
    if path is not None and not path.exists():
        raise UserError(
            str(path), got="no such file or folder", expected=f"the weights of {name} (--model-path)"
        )
    return load(
        name,
        path,
        DTYPES[dtype] if dtype else None,
        getattr(args, "text_encoders", "all"),
    )


def settings_from(args: argparse.Namespace, model: TextToImage) -> Settings:
    """The sampler settings that the flags name, for this model."""
    width, height = args.size if args.size is not None else (None, None)
    settings = settings_for(
        model,
        height,
        width,
        args.steps,
        args.cfg_weight,
        args.shift,
        args.schedule,
        args.negative,
        args.sampler,
    )
    if settings.guidance <= 1:
        without_effect(
            args, f"without guidance (it is {settings.guidance:g}; above 1: --cfg-weight)", "negative"
        )
    return settings


def prompts_in(path: Path) -> list[str]:
    """The prompts of a file. Raises UserError when there are none."""
    prompts = prompt_lines(path)
    if not prompts:
        raise UserError(str(path), got="no prompts", expected="one prompt per line")
    return prompts


def prompts_from(
    args: argparse.Namespace, remedy: str = "give some in quotes, or --prompts-file FILE"
) -> list[str]:
    """The prompts of the command line, then those of the file. Raises UserError when there are none."""
    prompts = list(args.prompts)
    if args.prompts_file is not None:
        prompts += prompts_in(args.prompts_file)
    if not prompts:
        raise UserError("prompts", got="none", remedy=remedy)
    if any(not any(letter.isprintable() and not letter.isspace() for letter in prompt) for prompt in prompts):
        raise UserError("prompts", got="an empty prompt", expected="words")
    return prompts
