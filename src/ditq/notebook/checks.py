"""What an argument of the notebook's functions may be: each check returns the value as the function takes it.

A check is given the argument's name and its value, and raises UserError that begins with the name. NumPy's numbers are
numbers; a bool is none.
"""

import os
from collections.abc import Callable, Iterable
from numbers import Integral, Number, Real
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from ditq.cli import values
from ditq.cli.flags import DTYPES
from ditq.core.errors import UserError
from ditq.core.recipe import Recipe
from ditq.core.schema import shown
from ditq.models.prompts import checked_prompts

Check = Callable[[str, Any], Any]


def refused(argument: str, value: Any, expected: str, remedy: str | None = None) -> UserError:
    """The error for a value that an argument cannot have."""
    plain = value is None or isinstance(value, str | bytes | Number | type | mx.Dtype)
    text = repr(value) if plain else shown(value)
    return UserError(
        argument, got=text if len(text) <= 60 else f"{text[:57]}...", expected=expected, remedy=remedy
    )


def whole(flag: str) -> Check:
    """The check of a whole number within the bounds of a flag."""
    least, most = values.BOUNDS.get(flag, (1, values.MOST))

    def check(argument: str, value: Any) -> int:
        if not _is_whole(value):
            raise refused(argument, value, f"a whole number from {least} to {most:,}")
        if not least <= value <= most:
            raise refused(argument, value, f"at least {least}" if value < least else f"at most {most:,}")
        return int(value)

    return check


def a_number(flag: str) -> Check:
    """The check of a number within the bounds of a flag."""
    least, most = values.BOUNDS[flag]

    def check(argument: str, value: Any) -> float:
        number = (
            value if isinstance(value, int | float) else float(value) if isinstance(value, Real) else None
        )
        if number is None or isinstance(value, bool) or not least <= number <= most:
            raise refused(argument, value, f"a number from {least} to {most:,}")
        return number

    return check


def a_size(argument: str, value: Any) -> tuple[int, int]:
    """Width and height of a side in pixels, or of both sides."""
    given = value.tolist() if isinstance(value, np.ndarray) else value
    sides = given if isinstance(given, list | tuple) else (given, given)
    if len(sides) != 2 or not all(map(_is_whole, sides)):
        raise refused(
            argument, value, "whole pixels: a side, such as 512, or (width, height), such as (768, 512)"
        )
    return int(sides[0]), int(sides[1])


def some_prompts(argument: str, value: Any) -> str | list[str]:
    """A text as it is, and a list of texts as such; one that says nothing is refused."""
    given = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(given, Iterable) or isinstance(given, bytes | bytearray):
        raise refused(argument, value, "a text or a list of texts")
    several = [given] if isinstance(given, str) else list(given)
    for number, one in enumerate(several):
        if not isinstance(one, str):
            raise refused(f"{argument}[{number}]", one, "a text")
    if not several or any(not one.strip() for one in several):
        raise UserError(argument, got="an empty one" if several else "none", expected="words")
    plain = checked_prompts([str.__str__(one) for one in several])
    return plain[0] if isinstance(given, str) else plain


def a_text(argument: str, value: Any) -> str:
    """A text, which may be empty."""
    if not isinstance(value, str):
        raise refused(argument, value, "a text")
    return checked_prompts([value])[0]


def a_word(argument: str, value: Any) -> str:
    """A name; which ones there are, the function says."""
    if not isinstance(value, str):
        raise refused(argument, value, "a name as text")
    return value


def true_or_false(argument: str, value: Any) -> bool:
    """A switch."""
    if not isinstance(value, bool | np.bool_):
        raise refused(argument, value, "True or False")
    return bool(value)


def a_path(argument: str, value: Any) -> Path:
    """A path, `~` expanded; which kind of place it must be, the function says."""
    return _place(argument, value, values.path)


def a_folder(argument: str, value: Any) -> Path:
    """The path of a folder, which may not be there yet."""
    return _place(argument, value, values.folder)


def a_dtype(argument: str, value: Any) -> mx.Dtype:
    """A dtype that networks compute in, or its name."""
    found = DTYPES.get(value) if isinstance(value, str) else value
    if not isinstance(found, mx.Dtype) or found not in DTYPES.values():
        raise refused(argument, value, " or ".join(f"mx.{name}" for name in DTYPES))
    return found


def a_recipe(argument: str, value: Any) -> str | Path | Recipe:
    """A `Recipe`, a name or a path."""
    if not isinstance(value, str | Path | Recipe):
        raise refused(argument, value, "a preset's name, the path of a recipe's .json file, or a Recipe")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _place(argument: str, value: Any, read: Callable[[str], Path]) -> Path:
    word = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(word, str):
        raise refused(argument, value, "a path as text or Path")
    try:
        return read(word)
    except values.Refusal as error:
        raise UserError(f"{argument}: {error}") from error
