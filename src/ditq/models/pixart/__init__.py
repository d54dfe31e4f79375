"""PixArt-alpha and -Sigma: the transformer, the shapes of its models, the layouts of its checkpoints."""

from ditq.models.pixart.config import ALPHA, ALPHA_512, SIGMA, PixArtConfig
from ditq.models.pixart.model import PixArt

__all__ = ["ALPHA", "ALPHA_512", "SIGMA", "PixArt", "PixArtConfig"]
