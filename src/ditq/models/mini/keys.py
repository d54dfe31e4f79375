"""The keys of `mini`'s file, held against those of its networks, and what a file with other keys is."""

import re
from collections.abc import Iterable, Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ditq.core.errors import UserError
from ditq.models.foreign import no_model, what_it_is
from ditq.models.loading import some
from ditq.models.mmdit.keymap import layout_of

PARTS = ("transformer.", "text_encoder.", "decoder.", "classifier.")
_CLASSIFIER = re.compile(r"classifier\.(conv[1-4]|object|background|colour|position)\.(weight|bias)")
"""Read apart from the model, when pictures are judged: a file without it draws all the same."""
_EXPECTED = f"mini's file: {', '.join(f'{part}*' for part in PARTS[:-1])} and {PARTS[-1]}*"
_REMEDY = "export the file again with scripts/train_mini.py"


def check_keys(weights: Mapping[str, mx.array], networks: Mapping[str, nn.Module], source: str) -> None:
    """Raises UserError where a file has keys that are none of `mini`'s `networks`, given by what is before their keys.

    The message names the prefix where all keys have one more, or what the file is, or else the first of those keys.
    """
    names = {
        before + key for before, network in networks.items() for key, _ in tree_flatten(network.parameters())
    }
    unknown = sorted(key for key in weights if key not in names and not _CLASSIFIER.fullmatch(key))
    if not unknown:
        return
    if len(unknown) == len(weights):
        raise _foreign(weights, source)
    foreign = no_model(weights)
    raise UserError(
        source,
        got=f"{len(unknown)} extra: {some(unknown)}",
        expected=_EXPECTED,
        remedy=f"they are of {foreign}" if foreign else f"take them out of the file, or {_REMEDY}",
    )


def _foreign(weights: Mapping[str, mx.array], source: str) -> UserError:
    """The error for a file without a single key of `mini`'s."""
    bare = {prefix: _without(prefix, weights) for prefix in _prefixes(weights)}
    for prefix, found in bare.items():
        if prefix and any(key.startswith(PARTS) for key in found):
            got, remedy = f"{prefix} before every key", f"take it away, or {_REMEDY}"
            return UserError(source, got=got, expected=_EXPECTED, remedy=remedy)
    for prefix, found in bare.items():
        what = no_model(found) or ("a transformer alone" if layout_of(found) else what_it_is(found))
        if what:
            before = f", with {prefix} before every key" if prefix else ""
            return UserError(source, got=what + before, expected=_EXPECTED)
    return UserError(source, got=f"keys of no known layout ({some(sorted(weights))})", expected=_EXPECTED)


def _prefixes(keys: Iterable[str]) -> list[str]:
    """Nothing, and each run of whole names that is before every key, the shortest first."""
    keys = list(keys)
    runs = [keys[0][: at.end()] for at in re.finditer(r"^|\.", keys[0])]
    return [run for run in runs if all(key.startswith(run) for key in keys)]


def _without(prefix: str, weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
    return {key.removeprefix(prefix): value for key, value in weights.items()}
