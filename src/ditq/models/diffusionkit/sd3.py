"""Stable Diffusion 3 and 3.5 behind the interface of every model."""

from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from jaxtyping import Float, UInt8

from ditq.core.errors import UserError
from ditq.models.base import Conditioning, Defaults, Prediction
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.hub import Files
from ditq.models.diffusionkit.vae import VAE
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import PUBLISHED
from ditq.models.mmdit.loading import check_mmdit_file, load_mmdit
from ditq.models.prompts import checked_prompts

CONFIGS = PUBLISHED
DEFAULTS: dict[str, Defaults] = {
    "sd3-medium": Defaults(size=1024, steps=28, guidance=7.0, shift=3.0, schedule="diffusionkit"),
    "sd3.5-medium": Defaults(size=1024, steps=40, guidance=4.5, shift=3.0, schedule="diffusionkit"),
    "sd3.5-large": Defaults(size=1024, steps=28, guidance=3.5, shift=3.0, schedule="diffusionkit"),
}
"""As the models' cards recommend."""
_HALF = {"sd3-medium": mx.float16, "sd3.5-medium": mx.bfloat16, "sd3.5-large": mx.bfloat16}
"""The 16-bit dtype that each model was published for."""


class SD3:
    """A model of the SD3 family, its parts read from the Hub or a local folder when first used.

    Implements `ditq.models.TextToImage`. Without `dtype` the transformer computes in the 16-bit dtype that it was
    published for, or on the CPU, where 16-bit products are slow, in float32.
    """

    prediction: Prediction = "velocity"
    noise = "rectified-flow"

    def __init__(
        self, name: str, path: Path | None = None, dtype: mx.Dtype | None = None, text_encoders: str = "all"
    ):
        if name not in CONFIGS:
            raise UserError("model", got=name, expected=" or ".join(CONFIGS))
        if text_encoders not in ("all", "clip"):
            raise UserError("text encoders", got=text_encoders, expected="all or clip")
        self.name, self.config, self.defaults = name, CONFIGS[name], DEFAULTS[name]
        self.geometry = self.config.geometry(factor=8, text_tokens=text.CLIP_TOKENS + text.T5_TOKENS)
        self.files = Files(name, path)
        self.dtype = dtype or (_HALF[name] if mx.default_device() == mx.gpu else mx.float32)
        self.use_t5 = text_encoders == "all"
        self._network: MMDiT | None = None

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts; each text encoder is loaded, used for all of them and freed."""
        checked_prompts(prompts)
        check_mmdit_file(
            self.files.transformer()
        )  # told of before 11 GB of text encoders are downloaded or read
        self.files.vae()
        encoders = text.TextEncoders(self.files, self.use_t5)
        return encoders.encode(prompts, self.config.token_level_text_embed_dim)

    def network(self) -> MMDiT:
        """The diffusion transformer, loaded on the first call and kept."""
        if self._network is None:
            self._network = load_mmdit(self.files.transformer(), self.config, self.dtype)
        return self._network

    def skeleton(self) -> MMDiT:
        """A transformer of the same shapes with lazy random weights."""
        return MMDiT(self.config)

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents."""
        return self.vae.decode(latents)

    @cached_property
    def vae(self) -> VAE:
        """The VAE, whose `encode` turns pictures into latents."""
        return VAE(self.files.vae())
