"""A checkpoint of the SD3 family into our transformer."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.models.diffusers_folder import check_folder_config
from ditq.models.folders import headers
from ditq.models.foreign import Shaped, no_model, unwrapped, what_it_is
from ditq.models.loading import Weights, load_weights_into, read_weights
from ditq.models.mmdit.config import PUBLISHED, MMDiTConfig
from ditq.models.mmdit.keymap import layout_of, to_mmdit
from ditq.models.mmdit.model import MMDiT


def load_mmdit(path: str | Path, config: MMDiTConfig, dtype: mx.Dtype | None = None) -> MMDiT:
    """The transformer of a checkpoint in any known layout, in `dtype` or as stored.

    `path` is a safetensors file, the index of a sharded one, or a folder that holds either. Raises UserError when the
    layout is not known, when the file is another model of the family, or when a key is missing, extra, misshapen, of
    integers or not finite.
    """
    check_folder_config(path, diffusers_fields(config), _name(config))
    weights = mmdit_weights(path)
    check_variant(weights, config, str(path))
    mmdit = MMDiT(config)
    load_weights_into(mmdit, weights, str(path), dtype, emptied=True)
    return mmdit


def mmdit_weights(path: str | Path) -> Weights:
    """A checkpoint's weights under the paths of `MMDiT`. Raises UserError that says what a file of another model is."""
    stored = read_weights(path)
    _check_kind(stored, path)
    return to_mmdit(stored, str(path)) or {}


def check_mmdit_file(path: str | Path) -> None:
    """Raises UserError, from the headers alone, for what cannot be read and for files of another model."""
    _check_kind(unwrapped(headers(path), str(path)), path)


def _check_kind(stored: Mapping[str, Shaped], path: str | Path) -> None:
    if no_model(stored) is None and layout_of(stored) is not None:
        return
    keys = ", ".join(key[:60] for key in list(stored)[:3])
    raise UserError(
        str(path),
        got=what_it_is(stored) or f"keys of no known layout ({keys})",
        expected="a diffusion transformer of the SD3 family (Stability, diffusers or DiffusionKit names)",
    )


def diffusers_fields(config: MMDiTConfig) -> dict[str, Any]:
    """The fields of `diffusers`' SD3Transformer2DModel for a network of this shape."""
    return {
        "_class_name": "SD3Transformer2DModel",
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "num_layers": config.depth_multimodal,
        "in_channels": config.vae_latent_dim,
        "patch_size": config.patch_size,
        "pos_embed_max_size": config.max_latent_resolution,
        "joint_attention_dim": config.token_level_text_embed_dim,
        "pooled_projection_dim": config.pooled_text_embed_dim,
        "qk_norm": "rms_norm" if config.use_qk_norm else None,
        "dual_attention_layers": list(config.dual_attention_blocks),
    }


def check_variant(weights: Mapping[str, mx.array], config: MMDiTConfig, source: str) -> None:
    """Raises UserError where the weights are those of another published model than the one of this shape."""
    found = next((name for name, other in PUBLISHED.items() if other != config and _is(weights, other)), None)
    if found is not None and not _is(weights, config):
        raise UserError(
            source,
            got=f"the transformer of {found}",
            expected=_name(config),
            remedy=f"give it with --model {found}",
        )
    patches = weights.get("x_embedder.proj.weight")
    if patches is not None and patches.ndim == 4 and patches.shape[-1] > config.vae_latent_dim:
        raise UserError(
            source,
            got=f"a transformer that takes {patches.shape[-1]} latent channels, for inpainting, editing or control",
            expected=f"{_name(config)}, which takes {config.vae_latent_dim}",
        )


def _is(weights: Mapping[str, mx.array], config: MMDiTConfig) -> bool:
    """Whether depth, width, norms of queries and keys, and second attentions are those of `config`."""
    block = re.compile(r"multimodal_transformer_blocks\.(\d{1,9})\.image_transformer_block\.(attn2\.)?")
    found = [at for key in weights if (at := block.match(key))]
    width = weights.get("x_embedder.proj.bias")
    return (
        {int(at[1]) for at in found} == set(range(config.depth_multimodal))
        and {int(at[1]) for at in found if at[2]} == set(config.dual_attention_blocks)
        and any(".qk_norm." in key for key in weights) == config.use_qk_norm
        and width is not None
        and width.shape == (config.hidden_size,)
    )


def _name(config: MMDiTConfig) -> str:
    """What a message calls a shape."""
    return next((name for name, other in PUBLISHED.items() if other == config), "a model of this shape")
