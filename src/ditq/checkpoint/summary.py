"""What a checkpoint is, in a few numbers, without its codes where they can be left on disk."""

from dataclasses import dataclass
from pathlib import Path

from ditq import capture
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.mlx_folder.companions import read_smoothing, read_table
from ditq.checkpoint.mlx_folder.description import layouts_of, network_of, read_config
from ditq.core import packing


@dataclass(frozen=True)
class Outline:
    """A checkpoint's model and sizes."""

    model: str
    layers: int
    bits_per_weight: float
    """Of the quantized layers, with their scales; 0 without layers."""
    timesteps: int
    """Rows of the activation grids; 0 without grids."""

    def __str__(self) -> str:
        weights = f"{self.model}: {self.layers} layers at {self.bits_per_weight:.2f} bits a weight"
        if not self.timesteps:
            return f"{weights}, activations as they are"
        return f"{weights}, activation grids of {self.timesteps} timestep{'s' * (self.timesteps > 1)}"


def outline(checkpoint: QuantizedCheckpoint) -> Outline:
    """The outline of a checkpoint in memory."""
    sizes = [(weight.codes.size, weight.bits_per_weight) for weight in checkpoint.weights.values()]
    table = checkpoint.activations
    return Outline(checkpoint.model, len(sizes), _mean(sizes), 0 if table is None else len(table.timesteps))


def outline_of_folder(folder: Path) -> Outline:
    """The outline of an exported folder, without its weights. Raises UserError for another kind or version.

    The small files beside the weights are checked, so that a dry run refuses what a run would.
    """
    config = read_config(folder)
    read_table(folder, config, read_smoothing(folder, config))
    modules = capture.layers(network_of(config, folder))  # lazy: nothing is allocated
    sizes = []
    for path, layout in layouts_of(config, folder).items():
        size = capture.matrix(modules[path]).size if path in modules else 0
        scale_bits = 16 if layout.scales == "float16" else 32
        sizes.append((size, packing.bits_per_weight(layout.bits, layout.stored_group, scale_bits)))
    grids = config.get("activation_quantization") or {"timesteps": []}
    return Outline(config["model"], len(sizes), _mean(sizes), len(grids["timesteps"]))


def _mean(sizes: list[tuple[int, float]]) -> float:
    return sum(size * bits for size, bits in sizes) / max(sum(size for size, _ in sizes), 1)
