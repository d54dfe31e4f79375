"""The shapes of the UNets of Stable Diffusion 1."""

from dataclasses import dataclass
from typing import Annotated

from ditq.core.errors import UserError
from ditq.core.schema import FILLED, within
from ditq.models.base import Geometry

LARGEST = 256
"""Latent cells that a side has at most. Nothing in a UNet bounds it; attention over 256 x 256 cells takes gigabytes."""
Size = Annotated[int, within(1, 65536)]


@dataclass(frozen=True)
class UNetConfig:
    """The shape of a UNet; the defaults are those of Stable Diffusion 1.1 to 1.5."""

    in_channels: Size = 4
    out_channels: Size = 4
    block_out_channels: Annotated[tuple[Size, ...], FILLED] = (320, 640, 1280, 1280)
    """Width of each level, the one with the most pixels first. Each level has half the rows of the one before."""
    attention_levels: tuple[int, ...] = (0, 1, 2)
    """Levels whose ResNets are each followed by a transformer; between both halves of the U there is always one."""
    layers_per_block: Annotated[int, within(1, 64)] = 2
    """ResNets of a level on the way down; on the way up there is one more."""
    num_heads: Annotated[tuple[Annotated[int, within(1, 1024)], ...], FILLED] = (8, 8, 8, 8)
    """By level."""
    text_embed_dim: Size = 768
    linear_projection: bool = False
    """Whether transformers begin and end in linear layers; otherwise in 1x1 convolutions."""
    norm_groups: Annotated[int, within(1, 1024)] = 32
    norm_eps: Annotated[float, within(1e-12, 1)] = 1e-5
    max_period: Annotated[int, within(2, 10**9)] = 10000

    def __post_init__(self) -> None:
        """Raises UserError that names the field where fields do not go together."""
        levels = len(self.block_out_channels)
        if levels > 16:
            raise UserError("block_out_channels", got=f"{levels} levels", expected="16 at most")
        if len(self.num_heads) != levels:
            raise UserError(
                "num_heads", got=self.num_heads, expected=f"one number for each of {levels} levels"
            )
        if not set(self.attention_levels) <= set(range(levels)):
            expected = f"numbers of levels, 0 to {levels - 1}"
            raise UserError("attention_levels", got=self.attention_levels, expected=expected)
        for channels, heads in zip(self.block_out_channels, self.num_heads, strict=True):
            if channels % self.norm_groups or channels % 2:
                expected = f"even multiples of norm_groups {self.norm_groups}"
                raise UserError("block_out_channels", got=self.block_out_channels, expected=expected)
            if channels % heads:
                raise UserError("num_heads", got=heads, expected=f"a divisor of the width {channels}")

    @property
    def levels(self) -> int:
        """The number of resolutions."""
        return len(self.block_out_channels)

    @property
    def time_dim(self) -> int:
        """Width of the embedded timestep."""
        return 4 * self.block_out_channels[0]

    def geometry(self, factor: int, text_tokens: int) -> Geometry:
        """The shapes around it, with a decoder of `factor` pixels a latent cell and so many text tokens."""
        return Geometry(
            latent_channels=self.in_channels,
            factor=factor,
            unit=2 ** (self.levels - 1),
            largest=LARGEST,
            text_tokens=text_tokens,
            text_dim=self.text_embed_dim,
        )


SD1 = UNetConfig()
