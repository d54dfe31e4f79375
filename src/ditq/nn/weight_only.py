"""Packed weights under plain activations (W4A16)."""

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq import capture
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


class WeightOnlyConv2d(nn.Module):
    """A convolution whose kernel lies packed and is unpacked at each call, since MLX has no quantized convolution.

    `layer` gives kernel size, stride, padding and bias. Refuses what `WeightOnlyLinear` refuses.
    """

    def __init__(self, weight: QuantizedWeight, layer: nn.Conv2d, name: str = "layer"):
        super().__init__()
        capture.refuse_unusual(layer)
        self.kernel, self.stride, self.padding = layer.weight.shape, layer.stride, layer.padding
        self.bits = weight.spec.bits
        self.group_size = packing.storage_group(weight.spec, weight.shape[1], name)
        self.weight, self.scales, self.biases = packing.pack(
            weight.codes, weight.scale, weight.zero, weight.spec
        )
        self.bias = layer.get("bias")
        self.inverse = None if weight.smooth is None else 1 / weight.smooth
        self.freeze()

    def __call__(
        self, x: Float[mx.array, "batch height width channels"]
    ) -> Float[mx.array, "batch rows columns out"]:
        """The layer's output in the dtype of x; products are summed in the scales' dtype."""
        smoothed = x if self.inverse is None else x * self.inverse
        matrix = mx.dequantize(
            self.weight, self.scales, self.biases, group_size=self.group_size, bits=self.bits
        )
        kernel = matrix.reshape(self.kernel)
        y = mx.conv2d(smoothed.astype(kernel.dtype), kernel, self.stride, self.padding)
        return (y if self.bias is None else y + self.bias).astype(x.dtype)
