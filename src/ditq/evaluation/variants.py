"""What can be compared: the float model, and anything that opens as a model of the same pictures."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ditq.capture import linears
from ditq.checkpoint import QuantizedCheckpoint, QuantizedModel
from ditq.core import plan
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.diagnostics.names import block_linears
from ditq.models.base import TextToImage
from ditq.models.cost import parameter_count
from ditq.models.mmdit import MMDiT

Opener = Callable[[TextToImage], AbstractContextManager[TextToImage]]
FLOAT = "float"


@dataclass(frozen=True)
class Size:
    """What a transformer's weights take."""

    bytes: int
    """All of them: quantized layers as their codes, scales and zero points, the rest in 16 bits."""
    bits_per_weight: float
    """Of the quantized layers; 16 where there are none."""


@dataclass(frozen=True)
class Variant:
    """A model to be drawn with: `opened(float model)` is a context that gives it, and undoes what it did."""

    name: str
    opened: Opener
    fingerprint: str
    """Stands for everything that decides the pictures besides prompts, seeds and settings."""
    size: Size

    @property
    def slug(self) -> str:
        """The name as a folder's."""
        return re.sub(r"[^a-z0-9.]+", "_", self.name.lower()).strip("_")


def float_variant(model: TextToImage, name: str = FLOAT) -> Variant:
    """The model as it is: the reference of a comparison."""
    return Variant(name, nullcontext, "float", size_of(model, {}))


def quantized_variant(
    name: str, model: TextToImage, checkpoint: QuantizedCheckpoint, activations: bool = True
) -> Variant:
    """The model with a checkpoint in it, on integer activations too or with its weights alone."""
    size = size_of(model, checkpoint.weights)
    return made_variant(name, lambda: checkpoint, fingerprint_of(checkpoint), size, activations)


def made_variant(
    name: str,
    make: Callable[[], QuantizedCheckpoint],
    fingerprint: str,
    size: Size,
    activations: bool = True,
) -> Variant:
    """The same with a checkpoint that is made, or read, when it is drawn with: one at a time is in memory.

    `fingerprint` stands for what `make` gives.
    """

    @contextmanager
    def opened(encoded: TextToImage) -> Iterator[TextToImage]:
        yield QuantizedModel(encoded, make(), activations)

    told = f"{fingerprint}, activations {'quantized' if activations else 'as they are'}"
    return Variant(name, opened, told, size)


def size_on(model: TextToImage, spec: Spec) -> Size:
    """The size of the transformer with every linear layer of its blocks on this grid; nothing is quantized."""
    mmdit, weights = MMDiT(model.config), {}
    modules = linears(mmdit)
    for path in block_linears(mmdit):
        rows, columns = modules[path].weight.shape
        scales = mx.zeros(
            (rows, spec.groups(columns, path))
        )  # lazy, never computed, like the weights themselves
        weights[path] = QuantizedWeight(mx.zeros((rows, columns), mx.int8), scales, scales, spec)
    return size_of(model, weights)


def fingerprint_of(checkpoint: QuantizedCheckpoint) -> str:
    """Sixteen digits that stand for every code, scale and grid of a checkpoint."""
    parts: list[str | bytes] = [checkpoint.model]
    for path, weight in sorted(checkpoint.weights.items()):
        parts += [path, *_bytes(weight.codes, weight.scale, weight.zero, weight.smooth)]
    if checkpoint.activations is not None:
        parts.append(checkpoint.activations.timesteps.tobytes())
        for path, grid in sorted(checkpoint.activations.grids.items()):
            parts += [path, *_bytes(grid.scale, grid.qmin, grid.qmax, grid.shift, grid.smooth)]
    return plan.digest(*parts)


def size_of(model: TextToImage, weights: dict[str, QuantizedWeight]) -> Size:
    """The size of the transformer with these layers on their grids."""
    codes = sum(weight.codes.size for weight in weights.values())
    bits = sum(weight.codes.size * weight.bits_per_weight for weight in weights.values())
    rest = 16 * (parameter_count(model.config) - codes)
    return Size(round((bits + rest) / 8), bits / codes if codes else 16.0)


def _bytes(*arrays: mx.array | None) -> list[bytes]:
    return [b"" if array is None else np.array(array).tobytes() for array in arrays]
