"""The multimodal diffusion transformer of Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206).

Two streams of tokens, latent patches and text, meet in every block's attention and nowhere else. The noise level
and the pooled prompt enter only through adaptive layer norm: each block is modulated by shifts, scales and gates
that depend on (step, prompt) but not on the tokens. So they are computed once for a whole run, by `MMDiT.prepare`,
and the denoise step receives them as one array row: nothing in it depends on Python state, it compiles once.

Parameter paths and config fields are DiffusionKit's, so that its checkpoints load here and ours load there.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.models.anatomy import Anatomy
from ditq.models.base import Conditioning, Network, RunInputs
from ditq.models.functional import Tokens, attention, modulate, timestep_embedding, unpatchify
from ditq.models.mmdit.anatomy import mmdit_anatomy
from ditq.models.mmdit.config import MMDiTConfig
from ditq.models.mmdit.cost import step_flops
from ditq.models.mmdit.layers import (
    FFN,
    Attention,
    Embedder,
    FinalLayer,
    LatentPatches,
    PositionTable,
    QKNorm,
)
from ditq.models.state import BlockState

TextTokens = Float[mx.array, "batch text_tokens hidden"]
FINAL = "modulation.final"
"""The name of the last layer's modulation in a state; a block's is `modulation.` and its number."""


class MMDiT(Network):
    """Predicts the velocity (noise minus data) of noisy latents, given text tokens and a row of modulation."""

    family = "mmdit"
    given_by = ("pooled",)
    begun = ("image", "text")
    results = ("image",)

    def __init__(self, config: MMDiTConfig):
        super().__init__()
        self.config = config
        last = config.depth_multimodal - 1
        self.x_embedder = LatentPatches(config)
        self.x_pos_embedder = PositionTable(config)
        self.y_embedder = Embedder(config.pooled_text_embed_dim, config.hidden_size)
        self.t_embedder = Embedder(config.frequency_embed_dim, config.hidden_size)
        self.context_embedder = nn.Linear(config.token_level_text_embed_dim, config.hidden_size)
        self.multimodal_transformer_blocks = [
            MultiModalTransformerBlock(config, i, dual=i in config.dual_attention_blocks, last=i == last)
            for i in range(config.depth_multimodal)
        ]
        self.final_layer = FinalLayer(config)

    @property
    def anatomy(self) -> Anatomy:
        """What each of its layers is."""
        return mmdit_anatomy(self.config)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that the transformer computes in: that of the position table, which is never quantized."""
        return self.x_pos_embedder.pos_embed.weight.dtype

    @property
    def blocks(self) -> list["MultiModalTransformerBlock"]:
        """The blocks in the order of execution."""
        return self.multimodal_transformer_blocks

    def prepare(self, conditioning: Conditioning, timesteps: Float[mx.array, "steps"]) -> RunInputs:
        """Text tokens, and the modulation of every block for all (step, prompt) pairs of a run side by side.

        `timesteps` are 1000 * sigma. Each adaLN layer runs once, over all pairs. For SD3 Medium in 16 bit, 50 steps
        and 2 prompts take 88 MB.
        """
        condition = self.condition(_pooled(conditioning)[None], timesteps[:, None])
        modulation = mx.concatenate(list(self._modulations(condition).values()), axis=-1)
        return RunInputs({"text": conditioning.tokens.astype(self.dtype)}, {"modulation": modulation})

    def given(
        self, timesteps: Float[mx.array, "rows"], pooled: Float[mx.array, "rows pooled_dim"]
    ) -> BlockState:
        """The modulation of every block and of the last layer, row by row."""
        return self._modulations(self.condition(pooled, timesteps))

    def condition(
        self, pooled: Float[mx.array, "*prompts pooled_dim"], timesteps: Float[mx.array, "*steps"]
    ) -> Float[mx.array, "*rows hidden"]:
        """What every adaLN layer is given: the embedded timesteps plus the embedded prompts, broadcast together."""
        frequencies = timestep_embedding(timesteps, self.config.frequency_embed_dim, self.config.max_period)
        return self.t_embedder(frequencies.astype(self.dtype)) + self.y_embedder(pooled.astype(self.dtype))

    def begin(
        self,
        latents: Float[mx.array, "batch height width channels"],
        text: Float[mx.array, "batch text_tokens text_dim"],
        modulation: Float[mx.array, "batch modulation"],
    ) -> BlockState:
        """Both streams embedded, and each block's part of the step's modulation under a name of its own."""
        _, height, width, _ = latents.shape
        image = self.x_embedder(latents.astype(self.dtype)) + self.x_pos_embedder(height, width)
        state = {"image": image, "text": self.context_embedder(text)}
        widths = [block.modulation_width for block in self.blocks]
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        parts = mx.split(modulation, ends, axis=-1)
        return {
            **state,
            **dict(zip([*(block.modulation_name for block in self.blocks), FINAL], parts, strict=True)),
        }

    def finish(
        self, state: Mapping[str, mx.array], height: int, width: int
    ) -> Float[mx.array, "batch height width channels"]:
        """The velocity from the image tokens behind the last block."""
        tokens = self.final_layer(state["image"], state[FINAL])
        return unpatchify(tokens, height, width, self.config.patch_size)

    def step_flops(self, rows: int, height: int, width: int, text_tokens: int) -> float:
        """Floating-point operations of one call with `rows` rows of latents (height, width)."""
        return step_flops(self.config, rows, height * width // self.config.patch_size**2, text_tokens)

    def _modulations(self, condition: Float[mx.array, "*rows hidden"]) -> dict[str, mx.array]:
        """Each block's modulation, then the last layer's."""
        blocks = {block.modulation_name: block.modulation(condition) for block in self.blocks}
        return {**blocks, FINAL: self.final_layer.adaLN_modulation(condition)}


class MultiModalTransformerBlock(nn.Module):
    """Both streams through one layer; their tokens see each other in one joint attention."""

    def __init__(self, config: MMDiTConfig, number: int, dual: bool, last: bool):
        super().__init__()
        self.number, self.num_heads = number, config.num_heads
        self.image_transformer_block = TransformerBlock(config, dual=dual)
        self.text_transformer_block = TransformerBlock(config, ends_at_attention=last)

    @property
    def modulation_name(self) -> str:
        """The name of its modulation in a state."""
        return f"modulation.{self.number}"

    @property
    def modulation_width(self) -> int:
        """Values of its modulation: the image stream's chunks, then the text stream's."""
        return self.image_transformer_block.modulation_width + self.text_transformer_block.modulation_width

    @property
    def reads(self) -> tuple[str, ...]:
        """Both streams and its own modulation."""
        return ("image", "text", self.modulation_name)

    @property
    def writes(self) -> tuple[str, ...]:
        """Both streams."""
        return ("image", "text")

    def modulation(self, condition: Float[mx.array, "*rows hidden"]) -> Float[mx.array, "*rows modulation"]:
        """The image stream's shifts, scales and gates, then the text stream's."""
        halves = self.image_transformer_block, self.text_transformer_block
        return mx.concatenate([half.adaLN_modulation(condition) for half in halves], axis=-1)

    def __call__(
        self, image: Tokens, text: TextTokens, modulation: Float[mx.array, "batch modulation"]
    ) -> tuple[Tokens, TextTokens]:
        """The two streams after the block, in their shapes; the last block returns its text as it came."""
        of_image, of_text = self.image_transformer_block, self.text_transformer_block
        for_image, for_text = mx.split(modulation, [of_image.modulation_width], axis=-1)
        image_mod, text_mod = of_image.named(for_image), of_text.named(for_text)
        pairs = zip(of_image.qkv(image, image_mod), of_text.qkv(text, text_mod), strict=True)
        q, k, v = (mx.concatenate(list(pair), axis=1) for pair in pairs)
        attended = attention(q, k, v, self.num_heads)
        image_tokens = image.shape[1]
        image = of_image.after_attention(image, attended[:, :image_tokens], image_mod)
        if not of_text.ends_at_attention:
            text = of_text.after_attention(text, attended[:, image_tokens:], text_mod)
        return image, text


class Modulation:
    """What one stream of a block is modulated with, each (batch, 1, hidden), named in the order of the adaLN's output.

    The text stream of the last block has a shift and a scale alone; only a dual block has the last three.
    """

    def __init__(self, chunks: Sequence[mx.array]):
        self.shift, self.scale = chunks[:2]
        if len(chunks) >= 6:
            self.gate, self.mlp_shift, self.mlp_scale, self.mlp_gate = chunks[2:6]
        if len(chunks) == 9:
            self.second_shift, self.second_scale, self.second_gate = chunks[6:]


class TransformerBlock(nn.Module):
    """One stream's half of a block: everything but the joint attention itself.

    The text stream of the last block ends at the attention, since nothing reads its output: it has neither output
    projection nor MLP. A dual block's image stream also attends to itself alone.
    """

    def __init__(self, config: MMDiTConfig, dual: bool = False, ends_at_attention: bool = False):
        super().__init__()
        hidden = config.hidden_size
        self.num_heads, self.eps = config.num_heads, config.layer_norm_eps
        self.ends_at_attention = ends_at_attention
        self.chunks = 2 if ends_at_attention else 9 if dual else 6
        self.modulation_width = self.chunks * hidden
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, self.modulation_width))
        self.attn = Attention(hidden, has_output=not ends_at_attention)
        if config.use_qk_norm:
            self.qk_norm = QKNorm(hidden // config.num_heads)
        if dual:
            self.attn2 = Attention(hidden)
            if config.use_qk_norm:
                self.qk_norm2 = QKNorm(hidden // config.num_heads)
        if not ends_at_attention:
            self.mlp = FFN(hidden, config.mlp_ratio * hidden)

    def named(self, modulation: Float[mx.array, "batch chunks"]) -> Modulation:
        """The chunks of this stream's modulation by name."""
        return Modulation(list(mx.split(modulation[:, None], self.chunks, axis=-1)))

    def qkv(self, x: Tokens, mod: Modulation) -> tuple[Tokens, Tokens, Tokens]:
        """Queries, keys and values of the modulated tokens."""
        modulated = modulate(x, mod.shift, mod.scale, self.eps)
        return self.attn.qkv(modulated, self.get("qk_norm"), self.num_heads)

    def after_attention(self, x: Tokens, attended: Tokens, mod: Modulation) -> Tokens:
        """The stream after attention's output projection and the MLP, each gated and added to its input."""
        y = x + mod.gate * self.attn.o_proj(attended)
        if "attn2" in self:
            y = y + self._second_attention(x, mod)
        return y + mod.mlp_gate * self.mlp(modulate(y, mod.mlp_shift, mod.mlp_scale, self.eps))

    def _second_attention(self, x: Tokens, mod: Modulation) -> Tokens:
        modulated = modulate(x, mod.second_shift, mod.second_scale, self.eps)
        qkv = self.attn2.qkv(modulated, self.get("qk_norm2"), self.num_heads)
        return mod.second_gate * self.attn2.o_proj(attention(*qkv, self.num_heads))


def _pooled(conditioning: Conditioning) -> mx.array:
    assert conditioning.pooled is not None, "an MMDiT is modulated by pooled text"
    return conditioning.pooled
