"""The VAE of a model: pictures to latents and back, through DiffusionKit's modules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, UInt8

from ditq.core.errors import UserError
from ditq.models.diffusers_folder import check_folder_config
from ditq.models.foreign import renamed, rewritten
from ditq.models.loading import Weights, load_weights_into, read_weights

SCALE, SHIFT = 1.5305, 0.0609
"""SD3's latent format: what the transformer sees is (VAE latents - SHIFT) * SCALE."""

Latents = Float[mx.array, "batch height width channels"]
Pictures = UInt8[np.ndarray, "batch rows columns 3"]

_STABILITY = (
    (r"^(up|down)\.", r"\1_blocks."),
    (r"^mid\.block_1\.", "mid_blocks.0."),
    (r"^mid\.attn_1\.", "mid_blocks.1."),
    (r"^mid\.block_2\.", "mid_blocks.2."),
    (r"\.block\.", ".resnets."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.(up|down)sample\.conv\.", r".\1sample."),
    (r"\.norm\.", ".group_norm."),
    (r"\.q\.", ".query_proj."),
    (r"\.k\.", ".key_proj."),
    (r"\.v\.", ".value_proj."),
    (r"\.proj_out\.", ".out_proj."),
    (r"^norm_out\.", "conv_norm_out."),
)

_DIFFUSERS = (
    (r"^mid_block\.resnets\.0\.", "mid_blocks.0."),
    (r"^mid_block\.attentions\.0\.", "mid_blocks.1."),
    (r"^mid_block\.resnets\.1\.", "mid_blocks.2."),
    (r"\.(up|down)samplers\.0\.conv\.", r".\1sample."),
    (r"\.to_q\.", ".query_proj."),
    (r"\.to_k\.", ".key_proj."),
    (r"\.to_v\.", ".value_proj."),
    (r"\.to_out\.0\.", ".out_proj."),
    # as older files call them
    (r"\.query\.", ".query_proj."),
    (r"\.key\.", ".key_proj."),
    (r"\.value\.", ".value_proj."),
    (r"\.proj_attn\.", ".out_proj."),
)


@dataclass(frozen=True)
class VAEShape:
    """The sizes of a VAE and the format of its latents; the defaults are those of SD3 and SD3.5."""

    latent_channels: int = 16
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    scale: float = SCALE
    shift: float = SHIFT
    quant_convs: bool = False
    """Whether a 1x1 convolution of the latents stands behind the encoder, and one in front of the decoder."""
    model: str = "the SD3 family"
    """What messages call the models that have it."""


SD_VAE = VAEShape(
    latent_channels=4, scale=0.18215, shift=0.0, quant_convs=True, model="Stable Diffusion 1 and 2"
)
_OF_SCALE = {
    0.18215: SD_VAE.model,
    0.13025: "Stable Diffusion XL and PixArt-Sigma",
    1.5305: VAEShape.model,
    0.3611: "FLUX",
}
"""Whose latents are scaled by these numbers."""


class VAE:
    """Encoder and decoder of one checkpoint, each loaded when first used, in float32: SD3's VAE is not safe in less."""

    def __init__(self, path: Path, shape: VAEShape = VAEShape()):
        self.path, self.shape = path, shape
        self._encoder: Any = None
        self._decoder: Any = None

    def check(self) -> None:
        """Raises UserError where the config beside the weights is that of another VAE's latents."""
        wanted = {"scaling_factor": self.shape.scale, "shift_factor": self.shape.shift}
        check_folder_config(self.path, wanted, self.shape.model, _whose)

    def decode(self, latents: Latents) -> Pictures:
        """The pictures of the transformer's latents, one by one: at 1024 pixels the attention scores take 1 GB."""
        from ditq.models.diffusionkit.corrections import rounded_pixels

        if self._decoder is None:
            self._decoder = self.decoder()
        pictures = [
            rounded_pixels(self._decoder(one[None] / self.shape.scale + self.shape.shift))
            for one in latents.astype(mx.float32)
        ]
        return np.concatenate(pictures)

    def encode(self, pictures: Pictures) -> Latents:
        """The transformer's latents of pictures: the mean of the encoder's distribution, so that they are repeatable.

        Raises UserError when a side is no multiple of the pixels per latent cell.
        """
        cell = 2 ** (len(self.shape.block_out_channels) - 1)
        if any(side % cell for side in pictures.shape[1:3]):
            raise UserError("picture size", got=pictures.shape[1:3], expected=f"multiples of {cell}")
        if self._encoder is None:
            self._encoder = self.encoder()
        pixels = mx.array(pictures).astype(mx.float32) / 127.5 - 1
        means = [self._encoder(one[None])[..., : self.shape.latent_channels] for one in pixels]
        return (mx.concatenate(means) - self.shape.shift) * self.shape.scale

    def decoder(self) -> Any:
        """DiffusionKit's decoder module, corrected, with the checkpoint's weights."""
        from ditq.models.diffusionkit.corrections import DK

        layers, channels = self.shape.layers_per_block + 1, self.shape.latent_channels
        module = self._filled(DK.vae.VAEDecoder, "decoder", channels, 3, layers)
        if not self.shape.quant_convs:
            return module
        return nn.Sequential(self._of_latents("post_quant_conv", channels), module)

    def encoder(self) -> Any:
        """DiffusionKit's encoder module, corrected, with the checkpoint's weights; it gives mean and log variance."""
        from ditq.models.diffusionkit.corrections import DK

        channels = 2 * self.shape.latent_channels
        module = self._filled(DK.vae.VAEEncoder, "encoder", 3, channels, self.shape.layers_per_block)
        if not self.shape.quant_convs:
            return module
        return nn.Sequential(module, self._of_latents("quant_conv", channels))

    def _filled(self, kind: Any, part: str, into: int, out: int, layers: int) -> Any:
        from ditq.models.diffusionkit.corrections import with_group_norm_eps

        self.check()
        weights = vae_weights(read_weights(self.path), part, str(self.path))
        if not weights:
            expected = f"keys of a VAE (first_stage_model.{part}.* or {part}.*)"
            raise UserError(str(self.path), got=f"no VAE {part}", expected=expected)
        module = kind(into, out, list(self.shape.block_out_channels), layers, self.shape.groups)
        load_weights_into(module, weights, f"{self.path} (VAE {part})", mx.float32)
        with_group_norm_eps(module)
        return module

    def _of_latents(self, name: str, channels: int) -> nn.Linear:
        """A 1x1 convolution of the latents, as a linear layer."""
        layer, source = nn.Linear(channels, channels), f"{self.path} (VAE {name})"
        load_weights_into(layer, vae_weights(read_weights(self.path), name, source), source, mx.float32)
        return layer


def _whose(config: Mapping[str, Any]) -> str | None:
    scale = config.get("scaling_factor")
    if not isinstance(scale, float) or scale not in _OF_SCALE:
        return None
    return f"the VAE of {_OF_SCALE[scale]}"


def vae_weights(weights: Mapping[str, mx.array], part: str, source: str = "checkpoint") -> Weights:
    """One part's weights ("encoder", "decoder", "quant_conv") under DiffusionKit's paths and in its shapes.

    Takes Stability's single files and diffusers' folders, which count the decoder's blocks from the other end.
    """
    prefix = re.compile(rf"(first_stage_model\.|vae\.)?{part}\.")
    own = {key: key[at.end() :] for key in weights if (at := prefix.match(key))}
    found = renamed(weights, own, source)
    diffusers = any(key.startswith("mid_block.") for key in found)
    blocks = 1 + max(
        (int(at[1]) for key in found if (at := re.match(r"up_blocks\.(\d{1,9})\.", key))), default=0
    )
    names = {}
    for key in found:
        name = rewritten(key, _DIFFUSERS if diffusers else _STABILITY)
        if diffusers and (at := re.match(r"up_blocks\.(\d{1,9})\.(.*)", name)):
            name = f"up_blocks.{blocks - 1 - int(at[1])}.{at[2]}"
        names[key] = name
    mapped = renamed(found, names, source)
    return {name: _mlx_shape(name, value, part.endswith("quant_conv")) for name, value in mapped.items()}


def _mlx_shape(key: str, value: mx.array, linear: bool) -> mx.array:
    """PyTorch's (out, in, rows, columns) as MLX's (out, rows, columns, in), or a 1x1 convolution as a linear layer."""
    if value.ndim != 4:
        return value
    linear = linear or key.endswith(("_proj.weight", "conv_shortcut.weight"))
    return value[:, :, 0, 0] if linear else value.transpose(0, 2, 3, 1)
