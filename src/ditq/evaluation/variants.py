"""What can be compared: the float model, and anything that opens as a model of the same pictures."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint import QuantizedCheckpoint, QuantizedModel
from ditq.checkpoint.mlx_folder.size import folder_bytes, weights_bytes
from ditq.checkpoint.mlx_folder.stored import Layout
from ditq.core import packing, plan
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.affine import code_dtype
from ditq.core.quantized import QuantizedWeight
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.evaluation.rounding_baseline import layer_specs
from ditq.models.base import TextToImage

Opener = Callable[[TextToImage], AbstractContextManager[TextToImage]]
FLOAT = "float"
BETWEEN = 101
"""Timesteps at which a grid that is a function of the timestep is fingerprinted, beside the calibrated ones."""


@dataclass(frozen=True)
class Size:
    """What a network's weights take."""

    bytes: int
    """Of the files: of the checkpoint's folder, or of the float weights in 16 bits."""
    bits_per_weight: float
    """Of the quantized layers; 16 where there are none."""


@dataclass(frozen=True)
class Variant:
    """A model that pictures are drawn with.

    `opened(float model)` is a context that gives the model, and undoes on leaving what it did to the float one.
    """

    name: str
    opened: Opener
    fingerprint: str
    """Stands for everything that decides the pictures besides prompts, seeds and settings."""
    size: Size

    @property
    def slug(self) -> str:
        """The name as a folder's."""
        return slug_of(self.name)


def slug_of(name: str) -> str:
    """A variant's name as the name of its folder."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_")


def float_variant(model: TextToImage, name: str = FLOAT) -> Variant:
    """The model as it is: the reference of a comparison."""
    return Variant(name, nullcontext, "float", size_of(model))


def quantized_variant(
    name: str, model: TextToImage, checkpoint: QuantizedCheckpoint, activations: bool = True
) -> Variant:
    """The model with a checkpoint in it, with quantized activations or with its weights alone."""
    size = size_of(model, checkpoint if activations else replace(checkpoint, activations=None))
    return lazy_variant(name, lambda: checkpoint, fingerprint_of(checkpoint), size, activations)


def lazy_variant(
    name: str,
    make: Callable[[], QuantizedCheckpoint],
    fingerprint: str,
    size: Size,
    activations: bool = True,
) -> Variant:
    """The same with a checkpoint that `make` reads or computes when pictures are drawn: one at a time is in memory.

    `fingerprint` stands for what `make` gives.
    """

    @contextmanager
    def opened(encoded: TextToImage) -> Iterator[TextToImage]:
        yield QuantizedModel(encoded, make(), activations)

    own = f"{fingerprint}, activations {'quantized' if activations else 'as they are'}"
    return Variant(name, opened, own, size)


def size_on(model: TextToImage, grids: Spec | Recipe, table: ActivationTable | None = None) -> Size:
    """The size of the network with its layers on these grids (see `layer_specs`); nothing is quantized."""
    network, weights = model.skeleton(), {}
    modules = network.anatomy.modules(network)
    for path, spec in layer_specs(network, grids).items():
        rows, columns = capture.matrix(modules[path]).shape
        groups = spec.groups(columns, path, capture.channels(modules[path]))
        scale = mx.broadcast_to(mx.ones((1,)), (rows, groups))  # takes no memory, like the network's weights
        codes = mx.broadcast_to(mx.zeros((1,), code_dtype(spec)), (rows, columns))
        weights[path] = QuantizedWeight(codes, scale, scale - 1, spec)
    return size_of(model, QuantizedCheckpoint(model.name, weights, table))


def fingerprint_of(checkpoint: QuantizedCheckpoint) -> str:
    """Sixteen digits that stand for every code, scale and grid of a checkpoint."""
    parts: list[str | bytes] = [checkpoint.model]
    for path, weight in sorted(checkpoint.weights.items()):
        parts += [path, *_bytes(weight.codes, weight.scale, weight.zero, weight.smooth, weight.bias)]
    table = checkpoint.activations
    if table is not None:
        parts.append(table.timesteps.tobytes())
        for path, grid in sorted(table.grids.items()):
            rows = grid.at(table.timesteps)
            parts += [path, *_bytes(rows.scale, rows.qmin, rows.qmax, rows.shift, grid.smooth), *_own(rows)]
            if not isinstance(grid, TimestepGrid):  # the rows between these do not follow from them
                rows = grid.at(np.linspace(0, 1000, BETWEEN))
                parts += _bytes(rows.scale, rows.qmin, rows.qmax, rows.shift)
                parts += _own(rows)
    return plan.digest(*parts)


def size_of(model: TextToImage, checkpoint: QuantizedCheckpoint | None = None) -> Size:
    """The size of the float network in 16 bits, or of a checkpoint's folder, without the model's other parts.

    Layers that no folder can hold (7 bits) count as npz files hold them: a byte a code, and float32 scales.
    """
    network = model.skeleton()
    if checkpoint is None:
        return Size(weights_bytes(network, {}), 16.0)
    weights = checkpoint.weights
    layouts = {
        path: Layout.of(weight, path)
        for path, weight in weights.items()
        if packing.is_storable(weight.spec, weight.shape[1])
    }
    codes = sum(weight.codes.size for weight in weights.values())
    bits = sum(weight.codes.size * weight.bits_per_weight for weight in weights.values())
    apart = sum(
        weight.codes.size * (weight.bits_per_weight - 16)
        for path, weight in weights.items()
        if path not in layouts
    )
    files = folder_bytes(network, checkpoint, layouts)
    return Size(round(files + apart / 8), bits / codes if codes else 16.0)


def _own(rows: GridRows) -> list[str | bytes]:
    """What tells a kind of grid from step, bounds and shift alone."""
    found = [] if rows.kind is None else [rows.kind]
    return [
        *found,
        *(part for one in (rows.below, rows.per_token) if one is not None for part in _bytes(one)),
    ]


def _bytes(*arrays: mx.array | None) -> list[bytes]:
    return [b"" if array is None else np.array(array).tobytes() for array in arrays]
