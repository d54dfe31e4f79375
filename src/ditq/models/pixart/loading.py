"""A checkpoint of the PixArt family into our transformer; those of other models refused by what they are."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.models.diffusers_folder import check_folder_config
from ditq.models.folders import headers
from ditq.models.foreign import Shaped, no_model, unwrapped, what_it_is
from ditq.models.loading import load_weights_into, read_weights
from ditq.models.pixart.config import PUBLISHED, PixArtConfig
from ditq.models.pixart.keymap import from_ours, layout_of, to_pixart
from ditq.models.pixart.model import PixArt

_KINDS = (
    "PixArt without size embeddings (PixArt-alpha at 512 pixels, or Sigma)",
    "PixArt with size embeddings",
)
_VIDEO = re.compile(r"(.*\.)?(proj_in\.|transformer_blocks\.\d+\.attn1\.norm_q\.)")
_ORIGINAL = re.compile(r"(.*\.)?(t_block\.|blocks\.\d+\.cross_attn\.|y_embedder\.y_proj\.)")
_BLOCK = re.compile(r"(?:.*\.)?transformer_blocks\.(\d{1,4})\.")


def load_pixart(path: str | Path, config: PixArtConfig, dtype: mx.Dtype | None = None) -> PixArt:
    """The transformer of a checkpoint in any known layout, in `dtype` or as stored.

    `path` is a safetensors file, the index of a sharded one, or a folder that holds either. Raises UserError for the
    checkpoint of another model, and when a key is missing, extra, misshapen, of integers or not finite.
    """
    stored = read_weights(path)
    _check_kind(stored, config, path)
    check_folder_config(path, diffusers_fields(config), _name(config))
    pixart = PixArt(config)
    load_weights_into(pixart, to_pixart(stored, str(path)) or {}, str(path), dtype)
    return pixart


def check_pixart_file(path: str | Path, config: PixArtConfig) -> None:
    """Raises UserError, from the headers alone, for what cannot be read and for files of another model."""
    _check_kind(unwrapped(headers(path), str(path)), config, path)
    check_folder_config(path, diffusers_fields(config), _name(config))


def diffusers_fields(config: PixArtConfig) -> dict[str, Any]:
    """The fields of `diffusers`' PixArtTransformer2DModel for a network of this shape; a set has several values of one.

    PixArt-alpha was published as a Transformer2DModel, which left size embeddings and interpolation to be inferred.
    """
    inferred = max(config.sample_size // 64, 1), config.sample_size == 128
    scale, sized = config.position_scale, config.size_conditioned
    return {
        "_class_name": frozenset({"PixArtTransformer2DModel", "Transformer2DModel"}),
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.head_dim,
        "num_layers": config.depth,
        "in_channels": config.latent_channels,
        "out_channels": config.out_channels,
        "cross_attention_dim": config.hidden_size,
        "caption_channels": config.text_embed_dim,
        "sample_size": config.sample_size,
        "patch_size": config.patch_size,
        "interpolation_scale": frozenset({scale, None}) if inferred[0] == scale else scale,
        "use_additional_conditions": frozenset({sized, None}) if inferred[1] == sized else sized,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
    }


def _check_kind(stored: Mapping[str, Shaped], config: PixArtConfig, path: str | Path) -> None:
    """Raises UserError that says what the file is, where it is not a transformer of this model."""
    found = layout_of(stored)
    if no_model(stored) is not None or found is None:
        if no_model(stored) is None and any(_ORIGINAL.match(key) for key in stored):
            got = "PixArt under the names of its original files"
            expected, remedy = (
                "the names of diffusers",
                "give the diffusers folder that was published beside them",
            )
            raise UserError(str(path), got=got, expected=expected, remedy=remedy)
        keys = ", ".join(key[:60] for key in list(stored)[:3])
        got = what_it_is(stored) or f"keys of no known layout ({keys})"
        raise UserError(str(path), got=got, expected="a transformer of the PixArt family (diffusers names)")
    if got := _other(stored, config, channels_last=found[1] is from_ours):
        raise UserError(str(path), got=got, expected=_name(config), remedy=_remedy(stored))


def _other(stored: Mapping[str, Shaped], config: PixArtConfig, channels_last: bool) -> str | None:
    """What a transformer is, in words, that is not one of this shape; None where it may be one."""
    if any(_VIDEO.match(key) for key in stored):
        return "a transformer for video of PixArt's kind, such as LTX-Video"
    if _sized(stored) != config.size_conditioned:
        return f"the transformer of {_KINDS[_sized(stored)]}"
    blocks = 1 + max((int(at[1]) for key in stored if (at := _BLOCK.match(key))), default=-1)
    if blocks != config.depth:
        return f"a PixArt transformer of {blocks} blocks, not {config.depth}"
    patches = next((one.shape for key, one in stored.items() if key.endswith("pos_embed.proj.weight")), ())
    channels = patches[3 if channels_last else 1] if len(patches) == 4 else config.latent_channels
    if channels != config.latent_channels:
        return f"a PixArt transformer that takes {channels} latent channels, not {config.latent_channels}"
    return None


def _sized(stored: Mapping[str, Shaped]) -> bool:
    return any(".resolution_embedder." in key for key in stored)


def _remedy(stored: Mapping[str, Shaped]) -> str:
    names = [name for name, config in PUBLISHED.items() if config.size_conditioned == _sized(stored)]
    return f"give it with --model {' or '.join(names)}, if it is one of these"


def _name(config: PixArtConfig) -> str:
    """What a message calls a shape."""
    return next(
        (name for name, other in PUBLISHED.items() if other == config), "a PixArt model of this shape"
    )
