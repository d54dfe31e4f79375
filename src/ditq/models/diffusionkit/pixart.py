"""PixArt-alpha and -Sigma behind the interface of every model."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from jaxtyping import Float, UInt8

from ditq.core.errors import UserError
from ditq.models.base import Conditioning, Defaults, Prediction
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.encoders import t5_encoder
from ditq.models.diffusionkit.pixart_files import PixArtFiles
from ditq.models.diffusionkit.vae import SD_VAE, VAE, VAEShape
from ditq.models.pixart import PixArt
from ditq.models.pixart.config import PUBLISHED
from ditq.models.pixart.loading import check_pixart_file, load_pixart
from ditq.models.prompts import checked_prompts

CONFIGS = PUBLISHED
_AT_1024 = Defaults(size=1024, steps=20, guidance=4.5, shift=1.0, schedule="linspace", sampler="dpm++2m")
DEFAULTS: dict[str, Defaults] = {
    "pixart-alpha": _AT_1024,
    "pixart-alpha-512": replace(_AT_1024, size=512),
    "pixart-sigma": _AT_1024,
}
"""As the models' cards recommend."""
TOKENS = {"pixart-alpha": 120, "pixart-alpha-512": 120, "pixart-sigma": 300}
"""Of T5, per prompt."""
_ALPHA_VAE = replace(SD_VAE, model="PixArt-alpha")
VAES: dict[str, VAEShape] = {
    "pixart-alpha": _ALPHA_VAE,
    "pixart-alpha-512": _ALPHA_VAE,
    "pixart-sigma": replace(SD_VAE, scale=0.13025, model="PixArt-Sigma"),
}
"""Stable Diffusion's VAE for alpha, that of Stable Diffusion XL for Sigma."""


class PixArtModel:
    """A model of the PixArt family, its parts read from the Hub or a local folder when first used.

    Implements `ditq.models.TextToImage`. Without `dtype` the transformer computes in float16, or on the CPU, where
    16-bit products are slow, in float32.
    """

    prediction: Prediction = "epsilon"
    noise = "ddpm-linear"

    def __init__(self, name: str, path: Path | None = None, dtype: mx.Dtype | None = None):
        if name not in CONFIGS:
            raise UserError("model", got=name, expected=" or ".join(CONFIGS))
        self.name, self.config, self.defaults = name, CONFIGS[name], DEFAULTS[name]
        self.geometry = self.config.geometry(TOKENS[name])
        self.files = PixArtFiles(name, path)
        self.dtype = dtype or (mx.float16 if mx.default_device() == mx.gpu else mx.float32)
        self._network: PixArt | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts: T5's last states, and which of them are of the prompt.

        Prompts are read in small letters and without spaces around them, as the model was trained.
        """
        prompts = checked_prompts(prompts)
        self._check()  # told of before a text encoder is downloaded or read
        self.vae.check()
        ids = text.t5_ids(self.files, [prompt.lower().strip() for prompt in prompts], TOKENS[self.name])
        encoder = t5_encoder(self.files)
        text.check_vocabulary(encoder, text.EMBEDDINGS["t5"], ids, str(self.files.text("t5")))
        states = text.run_t5(encoder, ids, masked=True)
        del encoder
        mx.clear_cache()
        if states.shape[-1] != self.geometry.text_dim:
            got, expected = f"states of width {states.shape[-1]}", f"T5 v1.1 XXL, of {self.geometry.text_dim}"
            raise UserError(str(self.files.text("t5")), got=got, expected=expected)
        return Conditioning(states, mask=mx.array(ids != text.T5_PAD).astype(mx.float32))

    def network(self) -> PixArt:
        """The transformer, loaded on the first call and kept."""
        if self._network is None:
            self._check()
            self._network = load_pixart(self.files.transformer(), self.config, self.dtype)
        return self._network

    def skeleton(self) -> PixArt:
        """A transformer of the same shapes with lazy random weights."""
        return PixArt(self.config)

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents."""
        return self.vae.decode(latents)

    @cached_property
    def vae(self) -> VAE:
        """The VAE, whose `encode` turns pictures into latents."""
        return VAE(self.files.vae(), VAES[self.name])

    def _check(self) -> None:
        """Raises UserError for a folder, or a transformer, of another model."""
        self.files.check()
        check_pixart_file(self.files.transformer(), self.config)
