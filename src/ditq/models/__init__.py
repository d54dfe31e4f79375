"""The models, by name, and the families of networks that they are built from."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.core.schema import checked, shown
from ditq.models.base import Conditioning, Defaults, Geometry, Network, RunInputs, TextToImage
from ditq.models.digest import weights_digest

__all__ = [
    "FAMILIES",
    "MODELS",
    "WITH_T5",
    "Conditioning",
    "Defaults",
    "Geometry",
    "Network",
    "RunInputs",
    "TextToImage",
    "check_same_shape",
    "load",
    "network_from",
    "weights_digest",
]

Loader = Callable[[Path | None, mx.Dtype | None, str], TextToImage]
"""Gives a model: a local folder or None, the network's dtype or None, which text encoders."""


def _mini(path: Path | None, dtype: mx.Dtype | None, text_encoders: str) -> TextToImage:
    from ditq.models.mini import Mini

    return Mini(path, dtype)


def _sd3(name: str, path: Path | None, dtype: mx.Dtype | None, text_encoders: str) -> TextToImage:
    from ditq.models.diffusionkit import SD3

    return SD3(name, path, dtype, text_encoders)


def _sd1(name: str, path: Path | None, dtype: mx.Dtype | None, text_encoders: str) -> TextToImage:
    from ditq.models.diffusionkit import SD1

    return SD1(name, path, dtype)


def _pixart_model(name: str, path: Path | None, dtype: mx.Dtype | None, text_encoders: str) -> TextToImage:
    from ditq.models.diffusionkit import PixArtModel

    return PixArtModel(name, path, dtype)


def _mmdit() -> tuple[type, Callable[[Any], Network]]:
    from ditq.models.mmdit import MMDiT, MMDiTConfig

    return MMDiTConfig, MMDiT


def _unet() -> tuple[type, Callable[[Any], Network]]:
    from ditq.models.unet import UNet, UNetConfig

    return UNetConfig, UNet


def _pixart() -> tuple[type, Callable[[Any], Network]]:
    from ditq.models.pixart import PixArt, PixArtConfig

    return PixArtConfig, PixArt


WITH_T5 = ("sd3-medium", "sd3.5-medium", "sd3.5-large")
"""The models whose T5 can be left out: `text_encoders` changes nothing for the others."""

MODELS: dict[str, Loader] = {
    "mini": _mini,
    **{name: partial(_sd3, name) for name in WITH_T5},
    "sd1.5": partial(_sd1, "sd1.5"),
    "sd1.4": partial(_sd1, "sd1.4"),
    **{name: partial(_pixart_model, name) for name in ("pixart-alpha", "pixart-alpha-512", "pixart-sigma")},
}
"""Each name's loader; a loader imports what it needs when called, so that `mini` never needs DiffusionKit."""

FAMILIES: dict[str, Callable[[], tuple[type, Callable[[Any], Network]]]] = {
    "mmdit": _mmdit,
    "unet": _unet,
    "pixart": _pixart,
}
"""Each family's config and network class: what a checkpoint's config.json names as its `model_type`."""


def load(
    name: str, path: str | Path | None = None, dtype: mx.Dtype | None = None, text_encoders: str = "all"
) -> TextToImage:
    """The model called `name`, its parts loaded when first used.

    `path` is a local folder in place of the download; `dtype` the network's (None: the model's own choice for
    this device); `text_encoders` "all", or "clip" to leave T5 out, with zeros in its place. Raises UserError for an
    unknown name, and for a gated or absent model.
    """
    if name not in MODELS:
        raise UserError("model", got=name, expected=" or ".join(MODELS))
    if text_encoders not in ("all", "clip"):
        raise UserError("text encoders", got=text_encoders, expected="all or clip")
    return MODELS[name](Path(path) if path is not None else None, dtype, text_encoders)


def network_from(family: Any, config: Any, source: str) -> Network:
    """A network of this family and shape with lazy random weights.

    `config` are the fields of the family's configuration as JSON holds them. Raises UserError, beginning with
    `source` and naming the field, for an unknown family, for fields that it does not have, and for values that make
    no network.
    """
    if not isinstance(family, str) or family not in FAMILIES:
        got = family if isinstance(family, str) else shown(family)
        raise UserError(f"{source}: model_type", got=got, expected=" or ".join(FAMILIES))
    shape, network = FAMILIES[family]()
    where = f"{source}: model_config"
    try:
        return network(checked(config, shape, where))
    except UserError as error:
        if error.what.startswith(where):
            raise
        raise UserError(
            f"{where}: {error.what}", got=error.got, expected=error.expected, remedy=error.remedy
        ) from error


def check_same_shape(name: str, config: Any, source: str = "config.json") -> None:
    """Raises UserError, beginning with `source`, that names each field in which `config` differs from the model's own.

    `config` are fields as `network_from` takes them; one that is left out has its default. A name that is not among
    MODELS has no shape of its own, and passes.
    """
    if name not in MODELS:
        return
    network = load(name).skeleton()
    given = network_from(network.family, config, source).config
    other = [
        one.name for one in fields(given) if getattr(given, one.name) != getattr(network.config, one.name)
    ]
    if other:
        raise UserError(
            f"{source}: model_config",
            got=", ".join(f"{field} {shown(getattr(given, field))}" for field in other),
            expected=", ".join(f"{field} {shown(getattr(network.config, field))}" for field in other)
            + f", as {name} has",
            remedy="use the file as it was written, or name the model that it belongs to",
        )
