"""The prompts that calibration uses when the user gives none."""

from pathlib import Path

from ditq.core.files import read_text

_FOLDER = Path(__file__).with_name("prompt_lists")


def default_prompts(model_name: str) -> list[str]:
    """Twenty prompts of varied scenes; for `mini` 64 in the words that it knows."""
    return prompt_lines(_FOLDER / ("mini.txt" if model_name == "mini" else "sd3.txt"))


def prompt_lines(path: str | Path) -> list[str]:
    """The prompts of a file: one per line, blank lines and lines that begin with # left out."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
