"""Quantized checkpoints: what is stored, and how it gets back into a model."""

from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.folder import read_folder, read_model, write_folder
from ditq.checkpoint.inject import inject, injected, quantized_layers
from ditq.checkpoint.model import QuantizedModel

__all__ = [
    "QuantizedCheckpoint",
    "QuantizedModel",
    "inject",
    "injected",
    "quantized_layers",
    "read_folder",
    "read_model",
    "write_folder",
]
