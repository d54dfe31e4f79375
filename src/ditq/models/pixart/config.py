"""The shapes of the PixArt family."""

from dataclasses import dataclass
from typing import Annotated

from ditq.core.errors import UserError
from ditq.core.schema import within
from ditq.models.base import Geometry

Size = Annotated[int, within(1, 65536)]


@dataclass(frozen=True)
class PixArtConfig:
    """The shape of a PixArt transformer; the defaults are those of PixArt-alpha at 1024 pixels."""

    num_heads: Annotated[int, within(1, 1024)] = 16
    head_dim: Annotated[int, within(1, 4096)] = 72
    depth: Annotated[int, within(1, 512)] = 28
    mlp_ratio: Annotated[int, within(1, 64)] = 4
    latent_channels: Size = 4
    learned_variance: bool = True
    """Whether it predicts a variance beside the noise, in as many channels, which sampling leaves out."""
    patch_size: Annotated[int, within(1, 64)] = 2
    sample_size: Annotated[int, within(1, 4096)] = 128
    """Side, in latent cells, of the pictures it was trained on; their positions are those of every other size."""
    position_scale: Annotated[float, within(1e-3, 1e3)] = 2.0
    """By how much positions are divided, so that a model of larger pictures has the range of those of 512 pixels."""
    size_conditioned: bool = True
    """Whether it is told height, width and aspect ratio of the picture."""
    pixels_per_cell: Annotated[int, within(1, 64)] = 8
    """Pixels per latent cell along one side: heights and widths are told in pixels."""
    text_embed_dim: Size = 4096
    frequency_embed_dim: Annotated[int, within(2, 65536)] = 256
    max_period: Annotated[int, within(2, 10**9)] = 10000
    norm_eps: Annotated[float, within(1e-12, 1)] = 1e-6

    def __post_init__(self) -> None:
        """Raises UserError that names the field where fields do not go together."""
        if self.hidden_size % 4:
            expected = "times num_heads a multiple of 4: sines and cosines of rows and columns"
            raise UserError("head_dim", got=self.head_dim, expected=expected)
        if self.size_conditioned and self.hidden_size % 3:
            expected = "times num_heads a multiple of 3: height, width and aspect ratio"
            raise UserError("head_dim", got=self.head_dim, expected=expected)
        if self.frequency_embed_dim % 2:
            raise UserError("frequency_embed_dim", got=self.frequency_embed_dim, expected="an even number")
        if self.sample_size % self.patch_size:
            expected = f"a multiple of patch_size {self.patch_size}"
            raise UserError("sample_size", got=self.sample_size, expected=expected)

    @property
    def hidden_size(self) -> int:
        """Width of the tokens."""
        return self.num_heads * self.head_dim

    @property
    def out_channels(self) -> int:
        """Channels of its output: the noise, and with `learned_variance` as many of the variance."""
        return self.latent_channels * (2 if self.learned_variance else 1)

    def geometry(self, text_tokens: int) -> Geometry:
        """The shapes around it, with so many text tokens."""
        return Geometry(
            latent_channels=self.latent_channels,
            factor=self.pixels_per_cell,
            unit=self.patch_size,
            largest=2 * self.sample_size,
            text_tokens=text_tokens,
            text_dim=self.text_embed_dim,
            masked=True,
        )


ALPHA = PixArtConfig()
ALPHA_512 = PixArtConfig(sample_size=64, position_scale=1.0, size_conditioned=False)
SIGMA = PixArtConfig(size_conditioned=False)
PUBLISHED: dict[str, PixArtConfig] = {
    "pixart-alpha": ALPHA,
    "pixart-alpha-512": ALPHA_512,
    "pixart-sigma": SIGMA,
}
