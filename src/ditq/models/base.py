"""The interface that every text-to-image model offers, from the embedded `mini` to Stable Diffusion 3.5 Large."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, UInt8

from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import MMDiTConfig


@dataclass(frozen=True)
class Conditioning:
    """What the text encoders say of the prompts: one row per prompt."""

    tokens: Float[mx.array, "prompts text_tokens text_dim"]
    pooled: Float[mx.array, "prompts pooled_dim"]

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def rows(self, indices: list[int]) -> "Conditioning":
        """The conditioning of the prompts at `indices`, repeated where they repeat."""
        return Conditioning(self.tokens[mx.array(indices)], self.pooled[mx.array(indices)])

    def __getitem__(self, rows: slice) -> "Conditioning":
        """The conditioning of a slice of the prompts."""
        return Conditioning(self.tokens[rows], self.pooled[rows])


@dataclass(frozen=True)
class Defaults:
    """How a model is sampled when the user does not say."""

    size: int
    """Side of the square picture, in pixels."""
    steps: int
    guidance: float
    shift: float
    schedule: str
    """A name of `ditq.sampling.SCHEDULES`."""


@runtime_checkable
class TextToImage(Protocol):
    """A text-to-image model whose parts are loaded when first used, so that they never all lie in memory at once."""

    name: str
    config: MMDiTConfig
    defaults: Defaults
    factor: int
    """Pixels per latent cell along one side."""
    text_tokens: int
    """Text tokens per prompt."""

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts; the text encoders are loaded for this call and freed after it."""
        ...

    def transformer(self) -> MMDiT:
        """The diffusion transformer, loaded on the first call and kept."""
        ...

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents; `rows` and `columns` are `factor` times the latents' height and width."""
        ...
