"""What the words after a flag stand for: numbers within bounds, text, files and folders; all else is refused.

argparse calls these while it parses, so that a mistake is told before anything is loaded, computed or written.
"""

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path

from ditq.core.errors import UserError

Refusal = argparse.ArgumentTypeError
"""What all of these raise."""
LONGEST_NAME, LONGEST_PATH = 240, 4000
"""Bytes of a file's name and of a whole path: systems take 255 and 4096, and a write adds its own prefix."""
SHOWN = 120
"""Characters of a refused word that a message repeats."""
MOST = 1_000_000
"""Of anything that is counted, unless `BOUNDS` says otherwise."""
BOUNDS: dict[str, tuple[float, float]] = {
    "--seed": (0, 2**62),
    "--steps": (1, 10_000),
    "--num-sampling-steps": (1, 10_000),
    "--num-selected-steps": (1, 10_000),
    "--batch-size": (1, 100_000),
    "--stride": (1, 10_000),
    "--iters": (1, 10**8),
    "--flips": (0, 1000),
    "--columns": (1, 1000),
    "--latent-size": (1, 4096),
    "--bits": (2, 8),
    "--bits-w": (2, 8),
    "--wbits": (2, 8),
    "--bits-a": (2, 16),
    "--abits": (2, 16),
    "--cfg-weight": (0, 1000),
    "--shift": (1e-3, 1000),
    "--warmup": (0, 1),
    "--drop": (0, 1),
    "--beta-start": (2, 1000),
    "--beta-end": (1, 1000),
    "--average-bits": (4, 8),
    "--norm": (1, 100),
    "--spike-channels": (0, 1),
    "--spike-from": (1, 1e9),
    "--time-gain": (0, 1),
    "--shift-gain": (0, 1),
    "--min-ssim": (0, 1),
    "--num-trajectories": (0, 1000),
    "--num-flat": (0, 1000),
    "--num-timed": (0, 1000),
}
"""The least and the greatest value of a flag; the flags of Python's floats that are not here take 0 to 1e9."""


def whole(flag: str, least: float | None = None) -> Callable[[str], int]:
    """The type of a flag that takes a whole number within its bounds; `least` in place of their lower one."""
    low, most = BOUNDS.get(flag, (1, MOST))
    low = low if least is None else least

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError as error:
            raise _refused(word, "a whole number") from error
        return int(_within(word, value, low, most))

    return read


def number(flag: str) -> Callable[[str], float]:
    """The type of a flag that takes a finite number within its bounds."""
    least, most = BOUNDS.get(flag, (0, 1e9))

    def read(word: str) -> float:
        try:
            value = float(word)
        except ValueError as error:
            raise _refused(word, "a number") from error
        if not math.isfinite(value):
            raise _refused(word, f"a number from {least:g} to {most:g}")
        return _within(word, value, least, most)

    return read


def _within(word: str, value: float, least: float, most: float) -> float:
    if most < 1000 and not least <= value <= most:
        raise _refused(word, f"from {least:g} to {most:g}")
    if value < least:
        raise _refused(word, f"at least {least:g}")
    if value > most:
        raise _refused(word, f"at most {most:,.12g}")
    return value


def text(word: str) -> str:
    """A word of the command line as it is. Refuses bytes that are not UTF-8, and control characters' NUL."""
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise _refused(word, "UTF-8 text") from error
    if "\0" in word:
        raise _refused(word, "text without NUL")
    return word


def path(word: str) -> Path:
    """A path, `~` expanded. Refuses what no file can be called."""
    if not text(word):
        raise _refused(word, "a path")
    try:
        found = Path(word).expanduser()
    except RuntimeError as error:
        raise _refused(word, f"the home of a user who is there; for a file of that name: ./{word}") from error
    longest = max((len(part.encode()) for part in found.parts), default=0)
    if longest > LONGEST_NAME:
        raise _refused(word, f"names of {LONGEST_NAME} bytes at most (one has {longest})")
    if len(str(found).encode()) > LONGEST_PATH:
        raise _refused(word, f"a path of {LONGEST_PATH} bytes at most")
    return found


def folder(word: str) -> Path:
    """The path of a folder, which may not be there yet."""
    found = path(word)
    if _is(found, Path.exists) and not _is(found, Path.is_dir):
        raise _refused(f"{found}", "a folder", ", a file")
    return _below_folders(found)


def file(word: str) -> Path:
    """The path of a file, which may not be there yet."""
    found = path(word)
    if _is(found, Path.is_dir):
        raise _refused(f"{found}", "a file", ", a folder")
    if word.endswith(("/", "\\")):
        raise _refused(word, "a file")
    return _below_folders(found)


def picture(word: str) -> Path:
    """The path of a PNG to write."""
    return _ending(file(word), ".png")


def figure(word: str) -> Path:
    """The path of a figure to write, in the format of its ending."""
    return _ending(file(word), ".png", ".pdf", ".svg", ".jpg")


def page(word: str) -> Path:
    """The path of a Markdown page to write."""
    return _ending(file(word), ".md")


def _ending(found: Path, *endings: str) -> Path:
    if found.suffix.lower() not in endings:
        raise _refused(str(found), f"a file that ends in {' or '.join(endings)}")
    return found


def _below_folders(found: Path) -> Path:
    """`found`, if what it lies in can be a folder."""
    for parent in found.parents:
        if _is(parent, Path.exists):
            if not _is(parent, Path.is_dir):
                raise _refused(f"{found}", f"a place in a folder; {parent} is a file")
            break
    return found


def _is(found: Path, question: Callable[[Path], bool]) -> bool:
    try:
        return question(found)
    except OSError:  # a folder that may not be entered: reading or writing will say so
        return False


def name_or_file(word: str) -> str:
    """A name, or the path of a file with `~` expanded."""
    return str(path(word))


def size(word: str) -> tuple[int, int]:
    """Width and height in pixels of "512" or "768x512"."""
    found = re.fullmatch(r"(\d{1,9})(?:x(\d{1,9}))?", word.lower())
    if not found:
        raise _refused(word, "pixels, such as 512, or WIDTHxHEIGHT, such as 768x512")
    sides = int(found[1]), int(found[2] or found[1])
    if not all(1 <= side <= 16384 for side in sides):
        raise _refused(word, "from 1 to 16384 pixels a side")
    return sides


def shard(word: str) -> tuple[int, int]:
    """(K, N) of "K/N", K from 0 to N - 1."""
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", word)
    if not found or int(found[1]) >= int(found[2]):
        raise _refused(word, "K/N with 0 <= K < N, such as 0/2 and 1/2")
    return int(found[1]), int(found[2])


def shown(word: str) -> str:
    """A word of the user's for a message: on one line, its middle left out when it is long."""
    word = word if len(word) <= SHOWN else f"{word[: SHOWN - 40]} ... {word[-35:]}"
    return word if word and word.isprintable() else repr(word)


def _refused(word: str, expected: str, what: str = "") -> Refusal:
    message = str(UserError("", got=f"{shown(word)}{what}", expected=expected))
    return Refusal(message.removeprefix(": "))
