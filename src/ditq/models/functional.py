"""The functions of networks that have no weights."""

import mlx.core as mx
from jaxtyping import Float

Tokens = Float[mx.array, "batch tokens hidden"]
ContextTokens = Float[mx.array, "batch context_tokens hidden"]
TextMask = Float[mx.array, "batch context_tokens"]
"""1 where a token counts, 0 where it pads."""
MASKED = -1e4
"""What is added to the scores of padding: as good as minus infinity, and within float16."""


def attention(
    q: Tokens, k: ContextTokens, v: ContextTokens, num_heads: int, mask: TextMask | None = None
) -> Tokens:
    """Softmax attention of the queries' tokens over the keys, heads split and merged again.

    Keys where the `mask` is 0 are not seen; without a mask all are.
    """
    batch, tokens, hidden = q.shape
    q, k, v = (x.reshape(batch, x.shape[1], num_heads, -1).swapaxes(1, 2) for x in (q, k, v))
    scale = (hidden // num_heads) ** -0.5
    bias = None if mask is None else ((1 - mask) * MASKED)[:, None, None].astype(q.dtype)
    out = mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=bias)
    return out.swapaxes(1, 2).reshape(batch, tokens, hidden)


def modulate(x: Tokens, shift: mx.array, scale: mx.array, eps: float) -> Tokens:
    """Layer norm without weights of its own, then (1 + scale) x + shift: adaLN of Peebles & Xie, arXiv 2212.09748."""
    return mx.fast.layer_norm(x, None, None, eps) * (1 + scale) + shift


def gelu_tanh(x: Float[mx.array, "*shape"]) -> Float[mx.array, "*shape"]:
    """The tanh form of GELU (Hendrycks & Gimpel, arXiv 1606.08415): 0.5 x (1 + tanh u) = x sigmoid(2u).

    By products and one sigmoid it takes two thirds of `nn.gelu_approx`'s time on a CPU, whose cube is a power.
    """
    return x * mx.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))


def timestep_embedding(
    timesteps: Float[mx.array, "*steps"], dims: int, max_period: int
) -> Float[mx.array, "*steps dims"]:
    """Cosines, then sines, of the timesteps at `dims / 2` geometric frequencies.

    Always float32: near 1000 float16 knows an angle only to the next half radian.
    """
    half = dims // 2
    frequencies = mx.exp(-mx.log(mx.array(float(max_period))) * mx.arange(half, dtype=mx.float32) / half)
    angles = timesteps.astype(mx.float32)[..., None] * frequencies
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


def unpatchify(
    patches: Float[mx.array, "batch tokens patch"], height: int, width: int, patch_size: int
) -> mx.array:
    """Latents (batch, height, width, channels) from one flat patch per token."""
    rows, columns = height // patch_size, width // patch_size
    x = patches.reshape(patches.shape[0], rows, columns, patch_size, patch_size, -1)
    return x.swapaxes(2, 3).reshape(patches.shape[0], height, width, -1)
