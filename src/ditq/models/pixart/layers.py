"""The parts that the blocks and both ends of a PixArt transformer are made of."""

from functools import lru_cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Float32

from ditq.models.functional import ContextTokens, TextMask, Tokens, attention, gelu_tanh, timestep_embedding
from ditq.models.pixart.config import PixArtConfig


class Attention(nn.Module):
    """Queries of one sequence on keys and values of another, which may be the same."""

    def __init__(self, hidden: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(hidden, hidden) for _ in range(3))
        self.to_out = [nn.Linear(hidden, hidden)]

    def __call__(self, x: Tokens, context: ContextTokens, mask: TextMask | None = None) -> Tokens:
        """What each token of x finds in the context, where the mask is 1."""
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out[0](attention(q, k, v, self.heads, mask))


class MLP(nn.Module):
    """Widen, tanh GELU, narrow. What fc2 receives is 'post-GELU'."""

    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def __call__(self, x: Tokens) -> Tokens:
        """The MLP of each token."""
        return self.fc2(gelu_tanh(self.fc1(x)))


class LatentPatches(nn.Module):
    """Embeds patches of the latents as tokens, row by row, each with its fixed position."""

    def __init__(self, config: PixArtConfig):
        super().__init__()
        self._config = config
        self.proj = nn.Conv2d(
            config.latent_channels, config.hidden_size, config.patch_size, config.patch_size
        )

    def __call__(self, latents: Float[mx.array, "batch height width channels"]) -> Tokens:
        """Tokens (batch, height / patch * width / patch, hidden)."""
        patches = self.proj(latents)
        table = position_table(self._config, *patches.shape[1:3])
        return patches.flatten(1, 2) + mx.array(table).astype(patches.dtype)


@lru_cache(maxsize=8)
def position_table(config: PixArtConfig, rows: int, columns: int) -> Float32[np.ndarray, "tokens hidden"]:
    """Sines and cosines of each patch's column, then of its row, as if the picture were of the trained size.

    So the patches of a picture of any size lie at places that the model has met.
    """
    side = config.sample_size / config.patch_size / config.position_scale
    frequencies = config.max_period ** (-np.arange(config.hidden_size // 4) / (config.hidden_size / 4))
    row, column = np.meshgrid(
        np.arange(rows) * side / rows, np.arange(columns) * side / columns, indexing="ij"
    )
    angles = [np.outer(place.reshape(-1), frequencies) for place in (column, row)]
    parts = [function(angle) for angle in angles for function in (np.sin, np.cos)]
    return np.concatenate(parts, axis=1).astype(np.float32)


class Embedder(nn.Module):
    """A two-layer MLP of a number's cosines and sines."""

    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.linear_1 = nn.Linear(dims, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)

    def __call__(self, x: Float[mx.array, "*rows dims"]) -> Float[mx.array, "*rows hidden"]:
        """The embedded rows."""
        return self.linear_2(nn.silu(self.linear_1(x)))


class CaptionProjection(nn.Module):
    """A two-layer MLP that brings text tokens to the model's width."""

    def __init__(self, config: PixArtConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.text_embed_dim, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.hidden_size)

    def __call__(
        self,
        tokens: Float[mx.array, "prompts text_tokens text_dim"],
        mask: Float[mx.array, "prompts text_tokens"],
    ) -> Float[mx.array, "prompts text_tokens hidden"]:
        """The tokens as the blocks read them, padding as zeros.

        No attention sees the padding. Zeros keep it out of calibration too, most rows of which it would make up.
        """
        counts = mask[..., None]
        return self.linear_2(gelu_tanh(self.linear_1(tokens * counts))) * counts


class Conditions(nn.Module):
    """Embeds the timestep and, in some models, the picture's size."""

    def __init__(self, config: PixArtConfig):
        super().__init__()
        hidden, dims = config.hidden_size, config.frequency_embed_dim
        self._config = config
        self.timestep_embedder = Embedder(dims, hidden)
        if config.size_conditioned:
            self.resolution_embedder = Embedder(dims, hidden // 3)
            self.aspect_ratio_embedder = Embedder(dims, hidden // 3)

    def __call__(
        self, frequencies: Float[mx.array, "batch dims"], height: int, width: int
    ) -> Float[mx.array, "batch hidden"]:
        """The embedded timestep plus the embedded height, width and aspect ratio of latents (height, width)."""
        embedded = self.timestep_embedder(frequencies)
        if "resolution_embedder" not in self:
            return embedded
        pixels = self._config.pixels_per_cell
        sides = self.resolution_embedder(self._of((height * pixels, width * pixels), frequencies.dtype))
        ratio = self.aspect_ratio_embedder(self._of((height / width,), frequencies.dtype))
        return embedded + mx.concatenate([sides.reshape(-1), ratio.reshape(-1)])

    def _of(self, numbers: tuple[float, ...], dtype: mx.Dtype) -> Float[mx.array, "numbers dims"]:
        dims, period = self._config.frequency_embed_dim, self._config.max_period
        return timestep_embedding(mx.array(numbers, mx.float32), dims, period).astype(dtype)


class AdaLNSingle(nn.Module):
    """adaLN-single (arXiv 2310.00426, section 2.3): one modulation for all blocks, each of which adds its own table."""

    def __init__(self, config: PixArtConfig):
        super().__init__()
        self.emb = Conditions(config)
        self.linear = nn.Linear(config.hidden_size, 6 * config.hidden_size)

    def __call__(
        self, frequencies: Float[mx.array, "batch dims"], height: int, width: int
    ) -> Float[mx.array, "batch chunks"]:
        """Six chunks for the blocks, then a seventh, the condition itself, for the last layer."""
        condition = self.emb(frequencies, height, width)
        return mx.concatenate([self.linear(nn.silu(condition)), condition], axis=-1)
