"""Quantizes diffusion transformers in MLX: smaller models, the same pictures."""

from ditq.core.platform import prepare

__version__ = "0.1.0"

prepare()
