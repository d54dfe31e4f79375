"""True low-bit inference: integer weight codes times integer activation codes, one activation scale per step."""

import mlx.core as mx
from jaxtyping import Float

from ditq.core.activation_grid import ActivationGrid
from ditq.core.quantized import QuantizedWeight
from ditq.nn.clock import StepClock
from ditq.nn.each_alone import each_alone
from ditq.nn.quantized_layer import Backend, QuantizedLayer, usual_backend


class QuantizedLinear(QuantizedLayer):
    """y = W x + b on codes: exact integer sums, one scale at the end, the shift folded into a bias per step.

    The backend "packed" multiplies MLX's packed words (`mx.quantized_matmul`), "codes" int8 codes as float32; None
    takes the `usual_backend`: on a CPU "codes", where packed products run at a hundredth of BLAS's speed. Both give the
    same result: with one scale per row every sum is of whole numbers, exact in float32 while it stays below 2^24.
    `clock` is shared by all layers of a model; `grid` is asked for the rows of the timesteps that it follows.
    """

    def __init__(
        self,
        weight: QuantizedWeight,
        bias: Float[mx.array, "out"] | None,
        grid: ActivationGrid,
        clock: StepClock,
        backend: Backend | None = None,
    ):
        def biases(shift: Float[mx.array, "rows channels"]) -> Float[mx.array, "rows out"]:
            channels = mx.broadcast_to(shift, (len(shift), weight.shape[1]))
            return channels @ weight.values().T + (0 if bias is None else bias)

        super().__init__(weight, grid, clock, backend or usual_backend(weight), biases)
        self.bias = None if self._offsets else bias
        self.freeze()

    def __call__(self, x: Float[mx.array, "*rows in"]) -> Float[mx.array, "*rows out"]:
        """The layer's output at the clock's step, in the dtype of x."""
        if not self.whole and self.backend == "codes":
            return each_alone(self._output, x)
        return self._output(x)

    def _output(self, x: Float[mx.array, "*rows in"]) -> Float[mx.array, "*rows out"]:
        codes, scale, biases = self.encoded(x.reshape(-1, x.shape[-1]))
        y = self._product(codes) * scale
        if self._offsets:
            y = y + biases
        elif self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], -1).astype(x.dtype)

    def _product(self, codes: Float[mx.array, "rows in"]) -> Float[mx.array, "rows out"]:
        if self.backend == "packed":
            return mx.quantized_matmul(
                codes, self.weight, self.scales, self.biases, group_size=self.group_size, bits=self.spec.bits
            )
        if self.zeros is None or self.group_scales is not None:
            return codes @ self.matrix().T
        # sum of codes times zero point, not a pass over the whole weight
        return codes @ self.codes.astype(mx.float32).T - codes.sum(axis=1, keepdims=True) * self.zeros[:, 0]
