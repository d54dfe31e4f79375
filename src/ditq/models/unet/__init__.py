"""The UNet of Stable Diffusion 1: the network, the shapes of its models, the layouts of its checkpoints."""

from ditq.models.unet.config import SD1, UNetConfig
from ditq.models.unet.model import UNet

__all__ = ["SD1", "UNet", "UNetConfig"]
