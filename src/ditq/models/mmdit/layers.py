"""The parts that the blocks and both ends of an MMDiT are made of."""

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.models.functional import Tokens, gelu_tanh, modulate
from ditq.models.mmdit.config import MMDiTConfig


class Attention(nn.Module):
    """The projections around an attention; `has_output` is false where nothing reads the result."""

    def __init__(self, hidden: int, has_output: bool = True):
        super().__init__()
        self.q_proj = nn.Linear(hidden, hidden)
        self.k_proj = nn.Linear(hidden, hidden)
        self.v_proj = nn.Linear(hidden, hidden)
        if has_output:
            self.o_proj = nn.Linear(hidden, hidden)

    def qkv(self, x: Tokens, norm: "QKNorm | None", num_heads: int) -> tuple[Tokens, Tokens, Tokens]:
        """The three projections of x, queries and keys normalised per head if the model does so."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        return (*norm(q, k, num_heads), v) if norm is not None else (q, k, v)


class QKNorm(nn.Module):
    """RMS norm of queries and keys, per head."""

    def __init__(self, head_dim: int):
        super().__init__()
        self.q_norm = nn.RMSNorm(head_dim, eps=1e-6)
        self.k_norm = nn.RMSNorm(head_dim, eps=1e-6)

    def __call__(self, q: Tokens, k: Tokens, num_heads: int) -> tuple[Tokens, Tokens]:
        """q and k, each head scaled to unit root mean square times its weight."""
        heads = q.shape[:2] + (num_heads, -1)
        return self.q_norm(q.reshape(heads)).reshape(q.shape), self.k_norm(k.reshape(heads)).reshape(k.shape)


class FFN(nn.Module):
    """The MLP: widen, tanh GELU, narrow. What fc2 receives is 'post-GELU'."""

    def __init__(self, hidden: int, inner: int):
        super().__init__()
        self.fc1 = nn.Linear(hidden, inner)
        self.fc2 = nn.Linear(inner, hidden)

    def __call__(self, x: Tokens) -> Tokens:
        """The MLP of each token."""
        return self.fc2(gelu_tanh(self.fc1(x)))


class FinalLayer(nn.Module):
    """Turns image tokens into patches of velocity."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        hidden = config.hidden_size
        self.eps = config.layer_norm_eps
        self.linear = nn.Linear(hidden, config.patch_size**2 * config.vae_latent_dim)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))

    def __call__(
        self, x: Tokens, modulation: Float[mx.array, "batch chunks"]
    ) -> Float[mx.array, "batch tokens patch"]:
        """One flat patch (row, column, channel) per token."""
        shift, scale = mx.split(modulation[:, None], 2, axis=-1)
        return self.linear(modulate(x, shift, scale, self.eps))


class LatentPatches(nn.Module):
    """Embeds patches of the latents as tokens, row by row."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.vae_latent_dim, config.hidden_size, config.patch_size, config.patch_size)

    def __call__(self, latents: Float[mx.array, "batch height width channels"]) -> Tokens:
        """Tokens (batch, height / patch * width / patch, hidden)."""
        return self.proj(latents).flatten(1, 2)


class PositionTable(nn.Module):
    """A fixed table of position embeddings, of which a picture uses the centre."""

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.side, self.patch_size = config.max_latent_resolution, config.patch_size
        self.pos_embed = nn.Embedding(self.side**2, config.hidden_size)

    def __call__(self, height: int, width: int) -> Float[mx.array, "1 tokens hidden"]:
        """The embeddings of the patches of latents (height, width). Raises ValueError when they exceed the table."""
        rows, columns = height // self.patch_size, width // self.patch_size
        if rows > self.side or columns > self.side:
            raise ValueError(f"{rows}x{columns} patches exceed the position table of {self.side}x{self.side}")
        top, left = (self.side - rows) // 2, (self.side - columns) // 2
        table = self.pos_embed.weight.reshape(self.side, self.side, -1)
        return table[top : top + rows, left : left + columns].flatten(0, 1)[None]


class Embedder(nn.Module):
    """A two-layer MLP that brings a conditioning vector to the model's width."""

    def __init__(self, dims: int, hidden: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dims, hidden), nn.SiLU(), nn.Linear(hidden, hidden))

    def __call__(self, x: Float[mx.array, "*rows dims"]) -> Float[mx.array, "*rows hidden"]:
        """The embedded rows."""
        return self.mlp(x)
