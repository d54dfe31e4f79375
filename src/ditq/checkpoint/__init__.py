"""Quantized checkpoints: what is stored, and how it gets back into a model."""

from ditq.checkpoint.checkpoint import QuantizedCheckpoint

__all__ = ["QuantizedCheckpoint"]
