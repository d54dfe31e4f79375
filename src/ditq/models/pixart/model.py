"""The transformer of PixArt-alpha and -Sigma (Chen et al. 2023, arXiv 2310.00426; 2024, arXiv 2403.04692).

One stream of tokens, the latents' patches. Each block lets them attend to each other and then to the text, which stays
as it is. The timestep enters by adaptive layer norm with one modulation for all blocks, to which each adds a learned
table of its own. Some models are told the picture's size in the same way, so that the modulation is made where the
latents are known, in `PixArt.begin`; it is one small product a step.

Parameter paths are those of `diffusers`, but for the MLPs, whose layers are called fc1 and fc2 as in every family.
"""

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.models.anatomy import Anatomy
from ditq.models.base import Conditioning, Network, RunInputs
from ditq.models.functional import TextMask, Tokens, modulate, timestep_embedding, unpatchify
from ditq.models.pixart.anatomy import IMAGE, MODULATION, TEXT, pixart_anatomy
from ditq.models.pixart.config import PixArtConfig
from ditq.models.pixart.cost import step_flops
from ditq.models.pixart.layers import MLP, AdaLNSingle, Attention, CaptionProjection, LatentPatches
from ditq.models.state import BlockState

TextTokens = Float[mx.array, "batch text_tokens hidden"]
Latents = Float[mx.array, "batch height width channels"]
MASK = "mask"


class PixArt(Network):
    """Predicts the noise of noisy latents, given text tokens with their mask and the timestep's cosines and sines."""

    family = "pixart"
    given_by = ("tokens", "mask")
    begun = (IMAGE, MODULATION)
    results = (IMAGE, MODULATION)

    def __init__(self, config: PixArtConfig):
        super().__init__()
        self.config = config
        hidden = config.hidden_size
        self.pos_embed = LatentPatches(config)
        self.adaln_single = AdaLNSingle(config)
        self.caption_projection = CaptionProjection(config)
        self.transformer_blocks = [TransformerBlock(config) for _ in range(config.depth)]
        self.scale_shift_table = mx.zeros((2, hidden))
        self.proj_out = nn.Linear(hidden, config.patch_size**2 * config.out_channels)

    @property
    def anatomy(self) -> Anatomy:
        """What each of its layers is."""
        return pixart_anatomy(self.config)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that it computes in: that of the last layer's table, which is never quantized."""
        return self.scale_shift_table.dtype

    @property
    def blocks(self) -> list["TransformerBlock"]:
        """The blocks in the order of execution."""
        return self.transformer_blocks

    def prepare(self, conditioning: Conditioning, timesteps: Float[mx.array, "steps"]) -> RunInputs:
        """The projected text with its mask, and cosines and sines of all timesteps of a run (of training, 0 to 999)."""
        frequencies = self._frequencies(timesteps)[:, None]
        shape = (len(timesteps), len(conditioning), frequencies.shape[-1])
        text = self._text(conditioning.tokens, _mask(conditioning))
        return RunInputs(text, {"frequencies": mx.broadcast_to(frequencies, shape)})

    def given(
        self,
        timesteps: Float[mx.array, "rows"],
        tokens: Float[mx.array, "rows text_tokens text_dim"],
        mask: Float[mx.array, "rows text_tokens"],
    ) -> BlockState:
        """The projected text and its mask, row by row; the timestep enters by `begin` alone."""
        return self._text(tokens, mask)

    def begin(
        self, latents: Latents, text: TextTokens, mask: TextMask, frequencies: Float[mx.array, "batch dims"]
    ) -> BlockState:
        """The embedded latents, and the modulation for latents of this size, beside the text and its mask."""
        modulation = self.adaln_single(frequencies, *latents.shape[1:3])
        image = self.pos_embed(latents.astype(self.dtype))
        return {IMAGE: image, MODULATION: modulation, TEXT: text, MASK: mask}

    def finish(self, state: Mapping[str, mx.array], height: int, width: int) -> Latents:
        """The noise from the image tokens behind the last block; a predicted variance is left out."""
        condition = state[MODULATION][:, None, -self.config.hidden_size :]
        shift, scale = mx.split(self.scale_shift_table + condition, 2, axis=1)
        patches = self.proj_out(modulate(state[IMAGE], shift, scale, self.config.norm_eps))
        predicted = unpatchify(patches, height, width, self.config.patch_size)
        return predicted[..., : self.config.latent_channels]

    def step_flops(self, rows: int, height: int, width: int, text_tokens: int) -> float:
        """Floating-point operations of one call with `rows` rows of latents (height, width)."""
        return step_flops(self.config, rows, height * width // self.config.patch_size**2, text_tokens)

    def _text(self, tokens: mx.array, mask: mx.array) -> BlockState:
        mask = mask.astype(self.dtype)
        return {TEXT: self.caption_projection(tokens.astype(self.dtype), mask), MASK: mask}

    def _frequencies(self, timesteps: Float[mx.array, "steps"]) -> Float[mx.array, "steps dims"]:
        dims, period = self.config.frequency_embed_dim, self.config.max_period
        return timestep_embedding(timesteps, dims, period).astype(self.dtype)


class TransformerBlock(nn.Module):
    """Attention of the tokens to each other, attention to the text, and an MLP; all added to the tokens.

    The attention to the text is neither modulated nor gated, and has no norm in front of it.
    """

    reads = (IMAGE, TEXT, MASK, MODULATION)
    writes = (IMAGE,)

    def __init__(self, config: PixArtConfig):
        super().__init__()
        hidden = config.hidden_size
        self.eps = config.norm_eps
        self.scale_shift_table = mx.zeros((6, hidden))
        self.attn1 = Attention(hidden, config.num_heads)
        self.attn2 = Attention(hidden, config.num_heads)
        self.ff = MLP(hidden, config.mlp_ratio * hidden)

    def __call__(
        self, image: Tokens, text: TextTokens, mask: TextMask, modulation: Float[mx.array, "batch chunks"]
    ) -> Tokens:
        """The tokens after the block."""
        chunks = modulation.reshape(len(modulation), 7, -1)[:, :6] + self.scale_shift_table
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = mx.split(chunks, 6, axis=1)
        y = modulate(image, shift, scale, self.eps)
        image = image + gate * self.attn1(y, y)
        image = image + self.attn2(image, text, mask)
        return image + mlp_gate * self.ff(modulate(image, mlp_shift, mlp_scale, self.eps))


def _mask(conditioning: Conditioning) -> mx.array:
    assert conditioning.mask is not None, "PixArt's text comes with a mask"
    return conditioning.mask
