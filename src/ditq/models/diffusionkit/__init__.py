"""The bridge to DiffusionKit: Stable Diffusion 1, 3 and 3.5 and PixArt, their text encoders, VAEs and files.

DiffusionKit itself is imported when a part of it is first used, never by importing this package.
"""

from ditq.models.diffusionkit.hub import Files
from ditq.models.diffusionkit.imports import diffusionkit
from ditq.models.diffusionkit.pixart import PixArtModel
from ditq.models.diffusionkit.sd1 import SD1
from ditq.models.diffusionkit.sd3 import SD3
from ditq.models.diffusionkit.tokenizers import PromptTruncated
from ditq.models.diffusionkit.vae import VAE

__all__ = ["SD1", "SD3", "VAE", "Files", "PixArtModel", "PromptTruncated", "diffusionkit", "patched_pipeline"]


def patched_pipeline(*args, **kwargs):
    """A `diffusionkit.mlx.DiffusionPipeline` that works on current MLX; see `pipeline.patched_pipeline`."""
    from ditq.models.diffusionkit.pipeline import patched_pipeline

    return patched_pipeline(*args, **kwargs)
