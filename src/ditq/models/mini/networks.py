"""The small networks around `mini`'s transformer: word embeddings before it, the picture decoder after it."""

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float, Int

CHANNELS = 16


class TextEncoder(nn.Module):
    """Word embeddings: normalised with their positions as tokens, summed as the pooled prompt."""

    def __init__(self, words: int, length: int, dims: int):
        super().__init__()
        self.token = nn.Embedding(words, dims)
        self.position = nn.Embedding(length, dims)
        self.norm = nn.LayerNorm(dims)

    def __call__(
        self, ids: Int[mx.array, "prompts length"]
    ) -> tuple[Float[mx.array, "prompts length dims"], Float[mx.array, "prompts dims"]]:
        """Tokens and pooled embeddings; id 0 is padding: a token, but no part of the sum."""
        words = self.token(ids)
        pooled = (words * (ids != 0)[..., None]).sum(axis=1)
        return self.norm(words + self.position.weight), pooled


class Residual(nn.Module):
    """x plus two 3x3 convolutions of it."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def __call__(self, x: mx.array) -> mx.array:
        """The refined maps, in their shape."""
        return x + self.conv2(nn.silu(self.conv1(nn.silu(x))))


class Decoder(nn.Module):
    """Latents to pictures eight times as large."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(CHANNELS, 96, 3, padding=1)
        self.block1 = Residual(96)
        self.up1 = nn.Conv2d(96, 48 * 4, 1)
        self.block2 = Residual(48)
        self.block3 = Residual(48)
        self.up2 = nn.Conv2d(48, 32 * 4, 1)
        self.block4 = Residual(32)
        self.conv_out = nn.Conv2d(32, 3 * 4, 3, padding=1)

    def __call__(
        self, latents: Float[mx.array, "batch height width 16"]
    ) -> Float[mx.array, "batch rows columns 3"]:
        """Pictures in about [-1, 1]."""
        x = self.block1(self.conv_in(latents))
        x = pixel_shuffle(self.up1(nn.silu(x)))
        x = self.block3(self.block2(x))
        x = pixel_shuffle(self.up2(nn.silu(x)))
        return pixel_shuffle(self.conv_out(nn.silu(self.block4(x))))


def pixel_shuffle(x: Float[mx.array, "batch height width channels"]) -> mx.array:
    """Maps of twice the side from four channels each (Shi et al., arXiv 1609.05158), in PyTorch's channel order."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, channels // 4, 2, 2).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(batch, 2 * height, 2 * width, channels // 4)
