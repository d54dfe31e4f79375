"""The models, by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.models.base import Conditioning, Defaults, TextToImage

__all__ = ["MODELS", "Conditioning", "Defaults", "TextToImage", "load"]


def _mini(path: Path | None, dtype: mx.Dtype | None, text_encoders: str) -> TextToImage:
    from ditq.models.mini import Mini

    return Mini(path, dtype)


def _sd3(name: str, path: Path | None, dtype: mx.Dtype | None, text_encoders: str) -> TextToImage:
    from ditq.models.diffusionkit import SD3

    return SD3(name, path, dtype, text_encoders)


MODELS: dict[str, Callable[[Path | None, mx.Dtype | None, str], TextToImage]] = {
    "mini": _mini,
    "sd3-medium": partial(_sd3, "sd3-medium"),
    "sd3.5-medium": partial(_sd3, "sd3.5-medium"),
    "sd3.5-large": partial(_sd3, "sd3.5-large"),
}
"""Each name's loader; a loader imports what it needs when called, so that `mini` never needs DiffusionKit."""


def load(
    name: str, path: str | Path | None = None, dtype: mx.Dtype | None = None, text_encoders: str = "all"
) -> TextToImage:
    """The model called `name`, its parts loaded when first used.

    `path` is a local folder in place of the download; `dtype` the transformer's (None: the model's own choice for
    this device); `text_encoders` "all", or "clip" to leave T5 out, with zeros in its place. Raises UserError for an
    unknown name, and for a gated or absent model.
    """
    if name not in MODELS:
        raise UserError("model", got=name, expected=" or ".join(MODELS))
    if text_encoders not in ("all", "clip"):
        raise UserError("text encoders", got=text_encoders, expected="all or clip")
    return MODELS[name](Path(path) if path is not None else None, dtype, text_encoders)
