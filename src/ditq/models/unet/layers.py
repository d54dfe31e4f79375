"""The blocks of a UNet. Pixels are (batch, height, width, channels), as tokens (batch, height * width, channels)."""

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.models.functional import Tokens, attention
from ditq.models.unet.config import UNetConfig
from ditq.models.unet.walk import Step

Pixels = Float[mx.array, "batch height width channels"]
Made = Float[mx.array, "batch rows columns out"]
"""Pixels in another number, or with another number of channels."""
TextTokens = Float[mx.array, "batch text_tokens text_dim"]
Skip = Float[mx.array, "batch height width skip_channels"]
PerChannel = Float[mx.array, "batch out"]
TRANSFORMER_EPS = 1e-6
"""Of the group norm in front of a transformer; the ResNets' is the config's."""


class Block(nn.Module):
    """A block of the walk: it reads and writes the arrays that its step names."""

    def __init__(self, step: Step):
        super().__init__()
        self.reads, self.writes = step.reads, step.writes


class ResNet(Block):
    """Two 3x3 convolutions, each behind group norm and SiLU; between them the timestep is added to every pixel."""

    def __init__(self, step: Step, config: UNetConfig):
        super().__init__(step)
        into = step.image + step.skip
        self.norm1 = nn.GroupNorm(config.norm_groups, into, config.norm_eps, pytorch_compatible=True)
        self.conv1 = nn.Conv2d(into, step.out, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.time_dim, step.out)
        self.norm2 = nn.GroupNorm(config.norm_groups, step.out, config.norm_eps, pytorch_compatible=True)
        self.conv2 = nn.Conv2d(step.out, step.out, 3, padding=1)
        if into != step.out:
            self.conv_shortcut = nn.Conv2d(into, step.out, 1)

    @property
    def time_name(self) -> str:
        """The name of what it is told of the timestep in a state."""
        return self.reads[-1]

    def __call__(self, image: Pixels, time: PerChannel) -> Made:
        """The features after the block; `time` is `time_emb_proj` of the activated timestep."""
        y = self.conv1(nn.silu(self.norm1(image))) + time[:, None, None]
        y = self.conv2(nn.silu(self.norm2(y)))
        return y + (self.conv_shortcut(image) if "conv_shortcut" in self else image)


class JoinedResNet(ResNet):
    """A ResNet on the way up: a skip connection's channels stand behind those of the features."""

    def __call__(self, image: Pixels, skip: Skip, time: PerChannel) -> Made:
        """The features after the block."""
        return super().__call__(mx.concatenate([image, skip], axis=-1), time)


class Transformer(Block):
    """Each pixel as a token: attention to all pixels, attention to the text, an MLP; all added to the features."""

    def __init__(self, step: Step, config: UNetConfig):
        super().__init__(step)
        hidden, heads = step.image, config.num_heads[step.level]
        self.norm = nn.GroupNorm(config.norm_groups, hidden, TRANSFORMER_EPS, pytorch_compatible=True)
        if config.linear_projection:
            self.proj_in, self.proj_out = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        else:
            self.proj_in, self.proj_out = nn.Conv2d(hidden, hidden, 1), nn.Conv2d(hidden, hidden, 1)
        self.transformer_blocks = [TransformerBlock(hidden, config.text_embed_dim, heads)]

    def __call__(self, image: Pixels, text: TextTokens) -> Pixels:
        """The features after the block."""
        x = self.proj_in(self.norm(image)).flatten(1, 2)
        for block in self.transformer_blocks:
            x = block(x, text)
        return image + self.proj_out(x.reshape(image.shape))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and the MLP, each behind layer norm and added to its input."""

    def __init__(self, hidden: int, text_dim: int, heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(hidden) for _ in range(3))
        self.attn1 = Attention(hidden, hidden, heads)
        self.attn2 = Attention(hidden, text_dim, heads)
        self.ff = GatedMLP(hidden, 4 * hidden)

    def __call__(self, x: Tokens, text: TextTokens) -> Tokens:
        """The tokens after the block."""
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class Attention(nn.Module):
    """Queries of one sequence on keys and values of another, which may be the same."""

    def __init__(self, hidden: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(hidden, hidden, bias=False)
        self.to_k = nn.Linear(context, hidden, bias=False)
        self.to_v = nn.Linear(context, hidden, bias=False)
        self.to_out = [nn.Linear(hidden, hidden)]

    def __call__(self, x: Tokens, context: Float[mx.array, "batch context_tokens context_dim"]) -> Tokens:
        """What each token of x finds in the context."""
        return self.to_out[0](attention(self.to_q(x), self.to_k(context), self.to_v(context), self.heads))


class GatedMLP(nn.Module):
    """GEGLU (Shazeer, arXiv 2002.05202): one half of the widened token times the GELU of the other, narrowed again."""

    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden, 2 * inner)
        self.fc2 = nn.Linear(inner, hidden)

    def __call__(self, x: Tokens) -> Tokens:
        """The MLP of each token."""
        value, gate = mx.split(self.fc1(x), 2, axis=-1)
        return self.fc2(value * nn.gelu(gate))


class Downsample(Block):
    """Half the resolution, by a 3x3 convolution of stride 2."""

    def __init__(self, step: Step, config: UNetConfig):
        super().__init__(step)
        self.conv = nn.Conv2d(step.image, step.out, 3, stride=2, padding=1)

    def __call__(self, image: Pixels) -> Made:
        """The features at half the rows and columns."""
        return self.conv(image)


class Upsample(Block):
    """Twice the resolution: each pixel repeated, then a 3x3 convolution."""

    def __init__(self, step: Step, config: UNetConfig):
        super().__init__(step)
        self.conv = nn.Conv2d(step.image, step.out, 3, padding=1)

    def __call__(self, image: Pixels) -> Made:
        """The features at twice the rows and columns."""
        return self.conv(mx.repeat(mx.repeat(image, 2, axis=1), 2, axis=2))


class TimeEmbedding(nn.Module):
    """A two-layer MLP of the timestep's cosines and sines."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.block_out_channels[0], config.time_dim)
        self.linear_2 = nn.Linear(config.time_dim, config.time_dim)

    def __call__(self, frequencies: Float[mx.array, "*steps dims"]) -> Float[mx.array, "*steps time_dim"]:
        """The embedded timesteps."""
        return self.linear_2(nn.silu(self.linear_1(frequencies)))
