"""Packed weights under plain activations (W4A16)."""

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.core import packing
from ditq.core.quantized import QuantizedWeight


class WeightOnlyLinear(nn.QuantizedLinear):
    """MLX's own quantized linear layer around given codes, its result in the dtype of its input.

    A smoothed weight divides its input, which a stock `nn.QuantizedLinear` cannot. MLX has no packed storage for 7 bits
    and for columns that no group size divides: UserError, with the layer's `name`.
    """

    def __init__(self, weight: QuantizedWeight, bias: Float[mx.array, "out"] | None, name: str = "layer"):
        rows, columns = weight.shape
        group = packing.storage_group(weight.spec, columns, name)
        super().__init__(columns, rows, bias is not None, group, weight.spec.bits)
        self.weight, self.scales, self.biases = packing.pack(
            weight.codes, weight.scale, weight.zero, weight.spec
        )
        if bias is not None:
            self.bias = bias
        self.inverse = None if weight.smooth is None else 1 / weight.smooth
        self.freeze()

    def __call__(self, x: Float[mx.array, "*rows in"]) -> Float[mx.array, "*rows out"]:
        """The layer's output in the dtype of x; products are summed in float32 where the scales are float32."""
        smoothed = x if self.inverse is None else x * self.inverse
        return super().__call__(smoothed).astype(x.dtype)
