"""Stable Diffusion 1 behind the interface of every model."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float, UInt8

from ditq.core.errors import UserError
from ditq.models.base import Conditioning, Defaults, Prediction
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.encoder_configs import CLIPConfig, clip_config
from ditq.models.diffusionkit.encoders import clip_module, clip_weights
from ditq.models.diffusionkit.sd1_files import CLIP, REPOSITORIES, SD1Files
from ditq.models.diffusionkit.vae import SD_VAE, VAE
from ditq.models.loading import Weights, read_weights
from ditq.models.prompts import checked_prompts
from ditq.models.unet import SD1 as SHAPE
from ditq.models.unet import UNet, UNetConfig
from ditq.models.unet.loading import check_unet_file, load_unet

CONFIGS: dict[str, UNetConfig] = dict.fromkeys(REPOSITORIES, SHAPE)
DEFAULTS = Defaults(size=512, steps=50, guidance=7.5, shift=1.0, schedule="stable-diffusion", sampler="ddim")
HEAD = 64
"""Width of CLIP-L's heads: an original file does not say how many there are."""


class SD1:
    """Stable Diffusion 1.4 or 1.5, its parts read from the Hub or from local files when first used.

    Implements `ditq.models.TextToImage`. Without `dtype` the UNet computes in float16, or on the CPU, where 16-bit
    products are slow, in float32.
    """

    prediction: Prediction = "epsilon"
    noise = "ddpm-scaled-linear"
    defaults = DEFAULTS

    def __init__(self, name: str, path: Path | None = None, dtype: mx.Dtype | None = None):
        if name not in CONFIGS:
            raise UserError("model", got=name, expected=" or ".join(CONFIGS))
        self.name, self.config = name, CONFIGS[name]
        self.geometry = self.config.geometry(factor=8, text_tokens=text.CLIP_TOKENS)
        self.files = SD1Files(name, path)
        self.dtype = dtype or (mx.float16 if mx.default_device() == mx.gpu else mx.float32)
        self._network: UNet | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts: the last states of CLIP-L behind its final norm, 77 tokens each."""
        prompts = checked_prompts(prompts)
        self._check()  # told of before a text encoder is downloaded or read
        self.files.vae()
        ids = text.clip_ids(self.files, "l", prompts)
        encoder = self._text_encoder()
        text.check_vocabulary(encoder, "token_embedding.weight", ids, str(self.files.text("clip_l")))
        states = text.run_clip_last(encoder, ids)
        del encoder
        mx.clear_cache()
        return Conditioning(states)

    def network(self) -> UNet:
        """The UNet, loaded on the first call and kept."""
        if self._network is None:
            self._check()
            self._network = load_unet(self.files.transformer(), self.config, self.dtype)
        return self._network

    def skeleton(self) -> UNet:
        """A UNet of the same shapes with lazy random weights."""
        return UNet(self.config)

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents."""
        return self.vae.decode(latents)

    @cached_property
    def vae(self) -> VAE:
        """The VAE, whose `encode` turns pictures into latents."""
        return VAE(self.files.vae(), SD_VAE)

    def _check(self) -> None:
        """Raises UserError for the UNet of another model, and for one that does not predict the noise."""
        check_unet_file(self.files.transformer(), self.config)
        self.files.check_prediction(
            "Stable Diffusion 2 and what is made from it predict velocity; they are not supported"
        )

    def _text_encoder(self) -> Any:
        """CLIP-L with its weights in float32."""
        path = self.files.text("clip_l")
        if path != self.files.single():
            config = clip_config(self.files.text("clip_l_config"))
            return clip_module(clip_weights(read_weights(path)), config, str(path))
        stored = read_weights(path)
        own = {key.removeprefix(CLIP): value for key, value in stored.items() if key.startswith(CLIP)}
        weights = clip_weights(own)
        return clip_module(weights, _clip_shape(weights, str(path)), f"{path} (text encoder)")


def _clip_shape(weights: Weights, source: str) -> CLIPConfig:
    """The shape of the CLIP-L with these weights, as its config would tell it."""
    tables = [weights.get(f"{name}_embedding.weight") for name in ("token", "position")]
    layers = [int(at[1]) for key in weights if (at := re.match(r"layers\.(\d{1,3})\.", key))]
    if not layers or any(table is None or table.ndim != 2 for table in tables):
        raise UserError(source, got=f"no CLIP text encoder under {CLIP}", expected="one of CLIP-L's shape")
    (words, hidden), (positions, _) = (table.shape for table in tables if table is not None)
    return {
        "num_hidden_layers": max(layers) + 1,
        "hidden_size": hidden,
        "num_attention_heads": max(1, hidden // HEAD),
        "max_position_embeddings": positions,
        "vocab_size": words,
        "hidden_act": "quick_gelu",
    }
