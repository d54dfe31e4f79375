"""Quantized checkpoints: what is stored, and how it gets back into a model."""

from pathlib import Path

from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import inject, injected, quantized_layers
from ditq.checkpoint.mlx_folder.description import is_folder
from ditq.checkpoint.mlx_folder.folder import check_writable, read_folder, read_model, write_folder
from ditq.checkpoint.npz_run.run import read_adaround, with_grids
from ditq.checkpoint.quantized_model import FolderModel, QuantizedModel
from ditq.checkpoint.summary import Outline, outline, outline_of_folder

__all__ = [
    "FolderModel",
    "Outline",
    "QuantizedCheckpoint",
    "QuantizedModel",
    "check_writable",
    "inject",
    "injected",
    "is_folder",
    "load",
    "outline",
    "outline_of_folder",
    "quantized_layers",
    "read_adaround",
    "read_folder",
    "read_model",
    "write_folder",
]


def load(path: Path, quant_config: Path | None = None) -> QuantizedCheckpoint:
    """The checkpoint in a folder of either form: of adaround_optimize, or of export_checkpoint.

    `quant_config` gives the activation grids in place of the folder's own. Raises UserError for another folder.
    """
    if is_folder(path):
        return with_grids(read_folder(path), quant_config)
    return read_adaround(path, quant_config)
