"""Checkpoint layouts of the PixArt family, each mapped to the parameter paths of `PixArt`.

Two layouts are read: `diffusers` folders, and our own. Each map takes a flat dictionary and returns one; what it does
not know it passes on under its own name, so that loading can name it as extra.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import mlx.core as mx

from ditq.models.foreign import renamed, rewritten
from ditq.models.loading import Weights

PREFIXES = ("", "transformer.", "model.", "diffusion_model.")
"""What stands before the transformer's keys in pipelines' and trainers' modules."""
_NOT_TRANSFORMER = ("vae.", "text_encoder.", "model_ema.")
"""What else whole pipelines hold."""
_MLP = ((r"\.ff\.net\.0\.proj\.", ".ff.fc1."), (r"\.ff\.net\.2\.", ".ff.fc2."))
_POSITIONS = "pos_embed.pos_embed"
"""The fixed table of positions, which some files hold; it is computed for each size."""
_PATCHES = "pos_embed.proj.weight"
Layout = Callable[[Mapping[str, mx.array], str], Weights]


def from_diffusers(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights:
    """Paths of a `diffusers` PixArtTransformer2DModel: ours, but for the MLPs."""
    names = {key: rewritten(key, _MLP) for key in weights if key != _POSITIONS}
    mapped = renamed(weights, names, source)
    if _PATCHES in mapped and mapped[_PATCHES].ndim == 4:  # PyTorch's (out, in, rows, columns)
        mapped[_PATCHES] = mapped[_PATCHES].transpose(0, 2, 3, 1)
    return mapped


def from_ours(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights:
    """Our own paths and shapes: nothing to rename."""
    return dict(weights)


LAYOUTS: tuple[tuple[str, Layout], ...] = (
    (r"transformer_blocks\.\d+\.ff\.fc1\.", from_ours),
    (r"adaln_single\.", from_diffusers),
)
"""What a key of each layout begins with, and its map."""


def to_pixart(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights | None:
    """`weights` under the parameter paths of `PixArt`, their layout told by their keys; None if it is no known one.

    What stands before all keys of the transformer (PREFIXES) is taken away; a VAE and a text encoder beside it are left
    out. Raises UserError, beginning with `source`, where two keys are the same parameter.
    """
    found = layout_of(weights)
    if found is None:
        return None
    prefix, layout = found
    names = {key: key.removeprefix(prefix) for key in weights if not key.startswith(_NOT_TRANSFORMER)}
    return layout(renamed(weights, names, source), source)


def layout_of(keys: Iterable[str]) -> tuple[str, Layout] | None:
    """What stands before the transformer's keys, and the map of their layout; None if it is no known one."""
    keys = list(keys)
    for pattern, layout in LAYOUTS:
        for prefix in PREFIXES:
            if any(re.match(re.escape(prefix) + pattern, key) for key in keys):
                return prefix, layout
    return None
