"""The shapes of the SD3 family, in DiffusionKit's config fields."""

from dataclasses import dataclass
from typing import Annotated

from ditq.core.errors import UserError
from ditq.core.schema import within
from ditq.models.base import Geometry


@dataclass(frozen=True)
class MMDiTConfig:
    """The shape of an MMDiT; the defaults are Stable Diffusion 3 Medium's."""

    num_heads: Annotated[int, within(1, 1024)] = 24
    depth_multimodal: Annotated[int, within(1, 512)] = 24
    mlp_ratio: Annotated[int, within(1, 64)] = 4
    vae_latent_dim: Annotated[int, within(1, 1024)] = 16
    layer_norm_eps: Annotated[float, within(1e-12, 1)] = 1e-6
    use_qk_norm: bool = False
    dual_attention_blocks: tuple[int, ...] = ()
    """Blocks whose image stream also attends to itself alone (SD3.5 Medium, 'MMDiT-X')."""
    hidden_size_override: Annotated[int, within(1, 65536)] | None = None
    max_latent_resolution: Annotated[int, within(1, 4096)] = 192
    """Side of the position table, in patches; smaller pictures use its centre."""
    patch_size: Annotated[int, within(1, 64)] = 2
    pooled_text_embed_dim: Annotated[int, within(1, 65536)] = 2048
    token_level_text_embed_dim: Annotated[int, within(1, 65536)] = 4096
    frequency_embed_dim: Annotated[int, within(2, 65536)] = 256
    max_period: Annotated[int, within(2, 10**9)] = 10000

    def __post_init__(self) -> None:
        """Raises UserError that names the field where fields do not go together."""
        if self.hidden_size % self.num_heads:
            expected = f"a divisor of the width {self.hidden_size}"
            raise UserError("num_heads", got=self.num_heads, expected=expected)
        if self.frequency_embed_dim % 2:
            raise UserError("frequency_embed_dim", got=self.frequency_embed_dim, expected="an even number")
        if not set(self.dual_attention_blocks) <= set(range(self.depth_multimodal)):
            expected = f"numbers of blocks, 0 to {self.depth_multimodal - 1}"
            raise UserError("dual_attention_blocks", got=self.dual_attention_blocks, expected=expected)

    @property
    def hidden_size(self) -> int:
        """Width of both streams: 64 per block unless overridden, the family's rule."""
        return self.hidden_size_override or 64 * self.depth_multimodal

    def geometry(self, factor: int, text_tokens: int) -> Geometry:
        """The shapes around it, with a decoder of `factor` pixels a latent cell and so many text tokens."""
        return Geometry(
            latent_channels=self.vae_latent_dim,
            factor=factor,
            unit=self.patch_size,
            largest=self.patch_size * self.max_latent_resolution,
            text_tokens=text_tokens,
            text_dim=self.token_level_text_embed_dim,
            pooled_dim=self.pooled_text_embed_dim,
        )


SD3_MEDIUM = MMDiTConfig()
SD35_MEDIUM = MMDiTConfig(use_qk_norm=True, dual_attention_blocks=tuple(range(13)), max_latent_resolution=384)
SD35_LARGE = MMDiTConfig(num_heads=38, depth_multimodal=38, use_qk_norm=True)
PUBLISHED: dict[str, MMDiTConfig] = {
    "sd3-medium": SD3_MEDIUM,
    "sd3.5-medium": SD35_MEDIUM,
    "sd3.5-large": SD35_LARGE,
}
