"""The config.json of a part of a `diffusers` folder, held against the model that the folder is given for.

It says what no weight's shape tells: how many heads, how latents are scaled.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.schema import checked, shown


def check_folder_config(
    path: str | Path,
    wanted: Mapping[str, Any],
    model: str,
    what: Callable[[Mapping[str, Any]], str | None] = lambda stored: None,
) -> None:
    """Raises UserError that names each field of `path`/config.json that is there and is not as `wanted`.

    `path` may also be a file, or a folder without config.json: then nothing is known, and nothing is refused. A list
    that is empty, null or left out is the same. A value of `wanted` may be a set: one of them. `model` is what a
    message calls the model, `what(stored)` the model that has such a config, where that is known.
    """
    config = Path(path) / "config.json"
    if not config.is_file():
        return
    stored = checked(read_json(config), dict[str, Any], str(config))
    other = {
        key: value
        for key, value in wanted.items()
        if key in stored and (stored[key] or None) not in [one or None for one in _choices(value)]
    }
    if other:
        known = what(stored)
        raise UserError(
            str(config),
            got=", ".join(f"{key} {shown(stored[key])}" for key in other)
            + (f", as {known} has" if known else ""),
            expected=", ".join(f"{key} {_shown(value)}" for key, value in other.items())
            + f", as {model} has",
            remedy="use the folder as it was published, or name the model that it is of",
        )


def _choices(value: Any) -> list[Any]:
    return sorted(value, key=str) if isinstance(value, frozenset) else [value]


def _shown(value: Any) -> str:
    return " or ".join(shown(one) for one in _choices(value))
