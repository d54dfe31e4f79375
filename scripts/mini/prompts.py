"""The prompt lists of the package: 64 for calibration and 64 to evaluate, without a combination in common."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mini import data, words
from mini.gate import held_out_pictures

EVALUATED, CALIBRATED = 64, 64
_HEADS = {
    "calibration/prompt_lists/mini.txt": (
        "64 prompts in the words that mini knows: every object, background, size, position and colour, all of trained "
        "combinations."
    ),
    "evaluation/prompt_lists/mini.txt": (
        "64 prompts of combinations of object and background that mini's transformer was never trained on."
    ),
}


def calibration_pictures(count: int = CALIBRATED) -> list[data.Picture]:
    """Pictures of trained combinations: objects and backgrounds in turn, with changing size, position and colour."""
    found, used, places = [], Counter(), len(data.BACKGROUNDS)
    for number in range(count):
        lap, obj = number // len(words.OBJECTS), number * 5 % len(words.OBJECTS)
        size = (1 + number + lap) % 3
        position = (1 + number // 2 + lap) % 3 if words.SIZES[size] != "large" else 1
        coloured = list(words.OBJECTS)[obj] in words.COLOURED
        colour = (number + lap) % len(words.COLOURS) if coloured else -1
        place = min(
            (one for one in range(places) if not data.held_out(obj, one) and data.visible(colour, one)),
            key=lambda one: (used[one], (one - 8 - number) % places),
        )
        used[place] += 1
        found.append(data.Picture(obj, colour, place, size, position))
    return found


def write_prompts(package: Path) -> dict[str, int]:
    """Writes the lists into the package's folder; the number of prompts by file."""
    calibration = [words.caption(item) for item in calibration_pictures()]
    evaluation = [words.caption(item) for item in held_out_pictures(EVALUATED)]
    lists = dict(zip(_HEADS, (calibration, evaluation), strict=True))
    for name, prompts in lists.items():
        (package / name).write_text("\n".join([f"# {_HEADS[name]}", *prompts]) + "\n")
    return {name: len(prompts) for name, prompts in lists.items()}
