"""A block computed with other weights and with its layers' inputs on grids, as a pure function; and its error."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Int64

from ditq.calibration.block_cache import Streams, run_block
from ditq.capture import swapped
from ditq.core import affine
from ditq.models.mmdit.model import MultiModalTransformerBlock

Tokens = Float[mx.array, "batch tokens channels"]
Quantize = Callable[[mx.array], mx.array]
"""Puts a layer's input on its grid."""
ROWS_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class InputGrid:
    """The grid of a layer's input in one batch: divided by the smoothing factors, then rounded around a centre."""

    scale: Float[mx.array, "..."]
    shift: Float[mx.array, "..."]
    qmin: float | Float[mx.array, "..."]
    qmax: float | Float[mx.array, "..."]
    smooth: Float[mx.array, "in"] | None = None

    def smoothed(self, x: Tokens) -> Tokens:
        """x as the smoothed weight expects it."""
        return x if self.smooth is None else x / self.smooth

    def __call__(self, x: Tokens) -> Tokens:
        """x on its grid; the gradient passes straight through, and reaches scale and shift."""
        return affine.fake_quant_within(self.smoothed(x), self.scale, self.shift, self.qmin, self.qmax)


@dataclass(frozen=True)
class GridLayer:
    """What a layer computes with: a float32 weight, and what it does to its input first."""

    weight: Float[mx.array, "out in"]
    bias: Float[mx.array, "*rows out"] | None
    """One for all rows, or one for each."""
    quantize: Quantize | None = None


class _Layer(nn.Module):
    def __init__(self, layer: GridLayer, quantize: Quantize | None):
        super().__init__()
        self._layer, self._quantize = layer, quantize

    def __call__(self, x: Float[mx.array, "*rows in"]) -> Float[mx.array, "*rows out"]:
        x = x if self._quantize is None else self._quantize(x)
        if self._layer.bias is None:
            return x @ self._layer.weight.T
        return mx.addmm(self._layer.bias, x, self._layer.weight.T)


def run_on_grids(
    block: MultiModalTransformerBlock,
    layers: Mapping[str, GridLayer],
    streams: Streams,
    modulation: Float[mx.array, "batch modulation"],
) -> Streams:
    """What the block returns when its layers at the paths within it compute as `layers` say; float32.

    Layers with one and the same `quantize` (q, k and v) put their common input on its grid once.
    """
    once: dict[Quantize, Quantize] = {}
    for layer in layers.values():
        if layer.quantize is not None and layer.quantize not in once:
            once[layer.quantize] = _once(layer.quantize)
    modules = {
        path: _Layer(layer, once[layer.quantize] if layer.quantize is not None else None)
        for path, layer in layers.items()
    }
    with swapped(block, modules):
        return run_block(block, in_float32(streams), modulation.astype(mx.float32))


def _once(quantize: Quantize) -> Quantize:
    """`quantize`, computed once for calls with the same array in a row."""
    seen: list[mx.array] = []

    def call(x: mx.array) -> mx.array:
        if not seen or seen[0] is not x:
            seen[:] = [x, quantize(x)]
        return seen[1]

    return call


def in_float32(streams: Streams) -> Streams:
    """The streams in float32."""
    return Streams(streams.image.astype(mx.float32), streams.text.astype(mx.float32))


def take_rows(streams: Streams, rows: Int64[np.ndarray, "batch"]) -> Streams:
    """Some rows of the streams, in float32."""
    at = mx.array(rows)
    return in_float32(Streams(streams.image[at], streams.text[at]))


def batches(
    rows: Int64[np.ndarray, "rows"], size: int = ROWS_AT_ONCE
) -> Iterator[Int64[np.ndarray, "batch"]]:
    """The rows, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
