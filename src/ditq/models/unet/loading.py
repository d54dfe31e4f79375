"""A checkpoint of Stable Diffusion 1 into our UNet; those of other models refused by what they are."""

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
from ditq.models.unet.config import UNetConfig
from ditq.models.unet.keymap import layout_of, to_unet
from ditq.models.unet.model import UNet

WANTED = "the UNet of Stable Diffusion 1"
_OTHERS = {
    1024: "the UNet of Stable Diffusion 2, which reads another text encoder and mostly predicts velocity",
    1280: "the UNet of Stable Diffusion XL's refiner",
    2048: "the UNet of Stable Diffusion XL",
}
"""What a UNet is whose cross-attention reads text of this width."""

_KEYS = re.compile(r".*\.attn2\.to_k\.weight")


def load_unet(path: str | Path, config: UNetConfig, dtype: mx.Dtype | None = None) -> UNet:
    """The UNet of a checkpoint in any known layout, in `dtype` or as stored.

    `path` is a safetensors file, the index of a sharded one, or a folder that holds either. Raises UserError for the
    checkpoint of another model, and when a key is missing, extra, misshapen, of integers or not finite.
    """
    stored = read_weights(path)
    _check_kind(stored, config, path)
    check_folder_config(path, diffusers_fields(config), "Stable Diffusion 1")
    unet = UNet(config)
    load_weights_into(unet, to_unet(stored, config, str(path)) or {}, str(path), dtype, emptied=True)
    return unet


def check_unet_file(path: str | Path, config: UNetConfig) -> None:
    """Raises UserError, from the headers alone, for what cannot be read and for files of another model."""
    _check_kind(unwrapped(headers(path), str(path)), config, path)
    check_folder_config(path, diffusers_fields(config), "Stable Diffusion 1")


def diffusers_fields(config: UNetConfig) -> dict[str, Any]:
    """The fields of `diffusers`' UNet2DConditionModel for a network of this shape.

    What it calls `attention_head_dim` is the number of heads: a name that it keeps for the sake of published files.
    """
    attends = [level in config.attention_levels for level in range(config.levels)]
    heads = config.num_heads
    return {
        "_class_name": "UNet2DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if one else "UpBlock2D" for one in reversed(attends)],
        "layers_per_block": config.layers_per_block,
        "attention_head_dim": heads[0] if len(set(heads)) == 1 else list(heads),
        "cross_attention_dim": config.text_embed_dim,
        "use_linear_projection": config.linear_projection,
        "norm_num_groups": config.norm_groups,
        "norm_eps": config.norm_eps,
        "class_embed_type": None,
        "addition_embed_type": None,
        "time_cond_proj_dim": None,
        "center_input_sample": False,
        "resnet_time_scale_shift": "default",
        "act_fn": "silu",
    }


def _check_kind(stored: Mapping[str, Shaped], config: UNetConfig, path: str | Path) -> None:
    """Raises UserError that says what the file is, where it is not a UNet for this text and these latents."""
    if no_model(stored) is not None or layout_of(stored) is None:
        keys = ", ".join(key[:60] for key in list(stored)[:3])
        got = what_it_is(stored) or f"keys of no known layout ({keys})"
        expected = f"{WANTED} (original or diffusers names)"
        raise UserError(str(path), got=got, expected=expected)
    if got := _other(stored, config):
        raise UserError(str(path), got=got, expected=WANTED)


def _other(stored: Mapping[str, Shaped], config: UNetConfig) -> str | None:
    """What a UNet is, in words, that is not one of Stable Diffusion 1 as published; None where it may be one."""
    if "v_pred" in stored:
        return "a UNet that predicts velocity (the file says so by its key v_pred)"
    latents = _shape(stored, r"(conv_in|input_blocks\.0\.0)\.weight")
    # of (out, in, rows, columns) or (out, rows, columns, in) the channels are what the kernel's sides are not
    channels = {latents[1], latents[3]} - {3} if len(latents) == 4 else set()
    if channels and config.in_channels not in channels:
        more = (
            ", for inpainting" if 9 in channels else ", for editing or control" if max(channels) > 4 else ""
        )
        return f"a UNet that takes {max(channels)} channels{more}"
    if any(re.search(r"(^|\.)time_embedding\.cond_proj\.|time_embed\.cond_proj", key) for key in stored):
        return "a latent consistency model, which is told the guidance"
    texts = {one.shape[1] for key, one in stored.items() if _KEYS.fullmatch(key) and len(one.shape) == 2}
    for width in texts - {config.text_embed_dim}:
        return _OTHERS.get(width, f"a UNet that reads text of width {width}, not {config.text_embed_dim}")
    return None


def _shape(stored: Mapping[str, Shaped], pattern: str) -> tuple[int, ...]:
    """The shape of the first key that is this, whatever stands before it; none: ()."""
    found = re.compile(rf"(.*\.)?{pattern}")
    return next((tuple(one.shape) for key, one in stored.items() if found.fullmatch(key)), ())
