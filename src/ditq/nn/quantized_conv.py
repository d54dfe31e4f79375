"""A convolution on quantized weights and quantized activations."""

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq import capture
from ditq.core.activation_grid import ActivationGrid
from ditq.core.quantized import QuantizedWeight
from ditq.nn.clock import StepClock
from ditq.nn.each_alone import each_alone
from ditq.nn.quantized_layer import Backend, QuantizedLayer, usual_backend


class QuantizedConv2d(QuantizedLayer):
    """y = W * x + b on codes, the kernel unpacked from its codes at each call.

    A grid that is not centred at zero has no code for zero. What is padded is zero all the same: with x put on its
    grid as scale * code + shift, the layer returns

        scale * (W * codes) + (W * shift) + b,

    both convolutions padded with zeros. The second one depends on the step, the channel and the distance from the
    border alone: what each kernel pixel adds to it stands in the step's row, and a convolution over a picture of ones,
    padded with zeros, sums it up.

    The product runs in float32 by `mx.conv2d`. With one weight scale per row its terms are whole numbers (times a power
    of two), so that a backend which multiplies and adds them is exact below 2^24, as MLX's CPU backend is; backends
    that transform a 3x3 kernel first (Winograd) round. With a scale per group the terms are no whole numbers, and the
    sum is rounded like any float32 sum. What the shift adds is a float32 sum as well.

    The backend "codes" keeps int8 codes, "packed" MLX's packed words; both compute the same. None takes the
    `usual_backend`. `layer` gives kernel size, stride, padding and bias.
    """

    def __init__(
        self,
        weight: QuantizedWeight,
        layer: nn.Conv2d,
        grid: ActivationGrid,
        clock: StepClock,
        backend: Backend | None = None,
    ):
        capture.refuse_unusual(layer)
        channels = capture.channels(layer)

        def added(shift: Float[mx.array, "rows shifts"]) -> Float[mx.array, "rows pixels"]:
            """W shift by output channel and kernel pixel."""
            shift = mx.broadcast_to(shift, (len(shift), channels))
            return shift @ weight.values().reshape(-1, channels).T

        super().__init__(weight, grid, clock, backend or usual_backend(weight), added)
        self.kernel, self.stride, self.padding = layer.weight.shape, layer.stride, layer.padding
        self.bias = layer.get("bias")
        self.freeze()

    def __call__(
        self, x: Float[mx.array, "batch height width channels"]
    ) -> Float[mx.array, "batch rows columns out"]:
        """The layer's output at the clock's step, in the dtype of x."""
        return self._output(x) if self.whole else each_alone(self._output, x)

    def _output(
        self, x: Float[mx.array, "batch height width channels"]
    ) -> Float[mx.array, "batch rows columns out"]:
        codes, scale, added = self.encoded(x, (1, 2, 3))
        y = mx.conv2d(codes, self.matrix().reshape(self.kernel), self.stride, self.padding) * scale
        if self._offsets:
            ones = mx.ones((1, *x.shape[1:3], 1))
            y = y + mx.conv2d(ones, added.reshape(*self.kernel[:3], 1), self.stride, self.padding)
        if self.bias is not None:
            y = y + self.bias
        return y.astype(x.dtype)
