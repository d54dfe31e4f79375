"""A block computed with other weights and with its layers' inputs on grids, as a pure function."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq import capture
from ditq.core import affine
from ditq.core.activation_grid import GridRows
from ditq.models.state import BlockState, run_block
from ditq.weights.problem import BlockModule

LayerInput = Float[mx.array, "batch *inner channels"]
"""Tokens (batch, tokens, channels), pixels (batch, height, width, channels), or one vector a sample."""
Quantize = Callable[[mx.array], mx.array]
"""Puts a layer's input on its grid."""
PerSample = Float[mx.array, ""] | Float[mx.array, "batch"]
"""One number for the whole batch, or one for each of its samples."""


@dataclass(frozen=True, eq=False)
class InputGrid:
    """The grid of a layer's input in one batch: divided by the smoothing factors, then rounded around a centre."""

    scale: PerSample
    shift: PerSample | Float[mx.array, "batch channels"]
    qmin: float | PerSample
    qmax: float | PerSample
    smooth: Float[mx.array, "channels"] | None = None
    below: PerSample | None = None
    per_token: PerSample | None = None
    """As in `core.activation_grid.GridRows`."""
    pixels: bool = False
    """Whether a grid per token takes a whole picture for one, as a convolution's does."""

    @classmethod
    def at(cls, rows: GridRows, taken: Any, smooth: mx.array | None, pixels: bool = False) -> "InputGrid":
        """The grid of the rows `taken`: their numbers for a sample each, or a slice's one row for all."""
        found = {name: array[taken] for name, array in rows.arrays.items()}
        return cls(**{"shift": mx.zeros_like(found["scale"]), **found}, smooth=smooth, pixels=pixels)

    def smoothed(self, x: LayerInput) -> LayerInput:
        """x as the smoothed weight expects it."""
        return x if self.smooth is None else x / self.smooth

    def __call__(self, x: LayerInput) -> LayerInput:
        """x on its grid; the gradient passes straight through, and reaches scale and shift."""
        qmin, qmax = (
            end if isinstance(end, float | int) else _along(x, end) for end in (self.qmin, self.qmax)
        )
        smoothed, scale, shift = self.smoothed(x), _along(x, self.scale), _along(x, self.shift)
        if self.per_token is not None:
            axes = tuple(range(1, x.ndim)) if self.pixels else (-1,)
            scale = _along(x, self.per_token) * affine.widest_step(smoothed, qmax, axes)
        below = None if self.below is None else _along(x, self.below)
        return affine.fake_quant_within(smoothed, scale, shift, qmin, qmax, below)


@dataclass(frozen=True)
class GridLayer:
    """What a layer computes with: a float32 matrix, and what it does to its input first."""

    weight: Float[mx.array, "out columns"]
    bias: Float[mx.array, "*rows out"] | None
    """One for all rows, or one for each."""
    quantize: Quantize | None = None


class LayerOnGrid(nn.Module):
    """Stands in the place of `original`."""

    def __init__(self, original: capture.Layer, layer: GridLayer):
        super().__init__()
        self._original, self._layer = original, layer

    def __call__(self, x: Float[mx.array, "*rows channels"]) -> Float[mx.array, "*positions out"]:
        """What the original would return with this matrix, bias and grid."""
        x = x if self._layer.quantize is None else self._layer.quantize(x)
        return capture.apply(self._original, self._layer.weight, self._layer.bias, x)


def run_on_grids(
    block: BlockModule, layers: Mapping[str, GridLayer], state: Mapping[str, mx.array]
) -> BlockState:
    """The arrays that the block writes when its layers at the paths within it compute as `layers` say; float32.

    Layers with one and the same `quantize` (queries, keys and values) put their common input on its grid once.
    """
    once: dict[Quantize, Quantize] = {}
    for layer in layers.values():
        if layer.quantize is not None and layer.quantize not in once:
            once[layer.quantize] = _once(layer.quantize)
    originals = capture.layers(block)
    modules = {
        path: LayerOnGrid(originals[path], replace(layer, quantize=layer.quantize and once[layer.quantize]))
        for path, layer in layers.items()
    }
    with capture.swapped(block, modules):
        after = run_block(block, {name: array.astype(mx.float32) for name, array in state.items()})
    return {name: after[name] for name in block.writes}


def _once(quantize: Quantize) -> Quantize:
    """`quantize`, computed once for calls with the same array in a row."""
    seen: list[mx.array] = []

    def call(x: mx.array) -> mx.array:
        if not seen or seen[0] is not x:
            seen[:] = [x, quantize(x)]
        return seen[1]

    return call


def _along(x: LayerInput, numbers: mx.array) -> mx.array:
    """The number, or the channels' numbers, of each sample, with axes of length 1 in place of x's inner axes."""
    if numbers.ndim == 0:
        return numbers
    return numbers.reshape(len(numbers), *[1] * (x.ndim - 2), numbers.shape[1] if numbers.ndim == 2 else 1)
