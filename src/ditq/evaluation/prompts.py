"""The prompts that pictures are compared on: none of them serves calibration."""

from pathlib import Path

from ditq.calibration import prompt_lines
from ditq.core.errors import UserError

_FOLDER = Path(__file__).with_name("prompt_lists")
FIRST_SEED = 1000
"""Seed of the first picture; calibration's own begin at 0."""


def evaluation_prompts(model_name: str, count: int | None = None) -> list[str]:
    """`count` prompts, evenly picked (None: all, 32 or more), for the model called `model_name`.

    Those of `mini` ask for combinations that its training never saw. Raises UserError when there are not so many.
    """
    prompts = prompt_lines(_FOLDER / ("mini.txt" if model_name == "mini" else "sd3.txt"))
    if count is not None and not 1 <= count <= len(prompts):
        raise UserError("evaluation prompts", got=count, expected=f"from 1 to {len(prompts)}")
    return prompts if count is None else prompts[:: len(prompts) // count][:count]
