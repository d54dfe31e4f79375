"""True low-bit inference: integer weight codes times integer activation codes, static per layer and step."""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Integer

from ditq.core import affine, packing
from ditq.core.spec import Spec
from ditq.nn.clock import StepClock

Backend = Literal["packed", "codes"]


@dataclass(frozen=True)
class ActivationGrid:
    """The static grid of a layer's input: at step t, x / smooth is rounded to scale[t] * code + shift[t]."""

    scale: Float[mx.array, "steps"]
    """Step sizes, never maxima."""
    qmin: Float[mx.array, "steps"]
    qmax: Float[mx.array, "steps"]
    shift: Float[mx.array, "steps channels"] | None = None
    """Centre of the grid: one value a step (channels = 1) or one per input channel; None: zero."""
    smooth: Float[mx.array, "in"] | None = None
    """Channel factors that the weight was multiplied with before it was quantized (SmoothQuant, arXiv 2211.10438)."""


class QuantizedLinear(nn.Module):
    """y = W x + b on codes: exact integer sums, one scale at the end, the shift folded into a bias per step.

    `scale` and `zero` (out, groups) belong to the weight's `codes` (out, in) on the grid `spec`. The backend "packed"
    multiplies MLX's packed words (`mx.quantized_matmul`), "codes" int8 codes as float32; None takes "packed" on a GPU
    and "codes" on a CPU, where packed products run at a hundredth of BLAS's speed. Both give the same result: with one
    scale per row every sum is of whole numbers, exact in float32 while it stays below 2^24.
    `clock` is shared by all layers of a model; `grid` has a row for each of its timesteps.
    """

    def __init__(
        self,
        codes: Integer[mx.array, "out in"],
        scale: Float[mx.array, "out groups"],
        zero: Float[mx.array, "out groups"],
        spec: Spec,
        bias: Float[mx.array, "out"] | None,
        grid: ActivationGrid,
        clock: StepClock,
        backend: Backend | None = None,
    ):
        super().__init__()
        self.spec, self.input_dims = spec, codes.shape[1]
        self.backend: Backend = backend or (
            "packed" if mx.default_device().type == mx.DeviceType.gpu else "codes"
        )
        per_row = spec.group_size is None
        if self.backend == "packed":
            # s = m 2^e: the products carry the power of two exactly, and m scales the finished sums.
            mantissa, exponent = np.frexp(np.array(scale, np.float32))
            inner = mx.array(np.ldexp(np.float32(1), exponent).astype(np.float32)) if per_row else scale
            self.group_size = packing.storage_group(spec, self.input_dims)
            self.weight, self.scales, self.biases = packing.pack(codes, inner, zero, spec)
            self.multiplier = mx.array(mantissa[:, 0]) if per_row else None
        else:
            middle = spec.qmin + 2 ** (spec.bits - 1)  # codes from 0 to 255 are no int8
            self.codes = (codes.astype(mx.int16) - middle).astype(mx.int8)
            self.zeros = None if spec.symmetric else zero - middle
            self.group_scales = None if per_row else scale
            self.multiplier = scale[:, 0] if per_row else None
        self.smooth = None if grid.smooth is None else 1 / grid.smooth
        self.bias = bias if grid.shift is None else None
        self._clock = clock
        self._columns = clock.register(self._table(affine.dequantize(codes, scale, zero), bias, grid))
        self._offsets = 0 if grid.shift is None else grid.shift.shape[1]
        self.freeze()

    def __call__(self, x: Float[mx.array, "*rows in"]) -> Float[mx.array, "*rows out"]:
        """The layer's output at the clock's step, in the dtype of x."""
        row = self._clock.row(self._columns)
        inverse, qmin, qmax, scale = row[0], row[1], row[2], row[3]
        offset, bias = row[4 : 4 + self._offsets], row[4 + self._offsets :]
        flat = x.reshape(-1, self.input_dims).astype(mx.float32)
        if self.smooth is not None:
            flat = flat * self.smooth
        codes = affine.encode(flat, inverse, offset if self._offsets else mx.array(0.0), qmin, qmax)
        y = self._product(codes) * (scale if self.multiplier is None else scale * self.multiplier)
        if self._offsets:
            y = y + bias
        elif self.bias is not None:
            y = y + self.bias
        return y.reshape(*x.shape[:-1], -1).astype(x.dtype)

    def _product(self, codes: Float[mx.array, "rows in"]) -> Float[mx.array, "rows out"]:
        if self.backend == "packed":
            return mx.quantized_matmul(
                codes, self.weight, self.scales, self.biases, group_size=self.group_size, bits=self.spec.bits
            )
        if self.group_scales is not None:
            zeros = mx.zeros_like(self.group_scales) if self.zeros is None else self.zeros
            return codes @ affine.dequantize(self.codes, self.group_scales, zeros).T
        product = codes @ self.codes.astype(mx.float32).T
        # sum of codes times zero point, not a pass over the whole weight
        return (
            product if self.zeros is None else product - codes.sum(axis=1, keepdims=True) * self.zeros[:, 0]
        )

    @staticmethod
    def _table(
        weight: Float[mx.array, "out in"], bias: Float[mx.array, "out"] | None, grid: ActivationGrid
    ) -> Float[mx.array, "steps columns"]:
        """Inverse scale, bounds, scale and, where the grid is shifted, the offsets and the bias with W shift in it."""
        numbers = mx.stack([1 / grid.scale, grid.qmin, grid.qmax, grid.scale], axis=1)
        if grid.shift is None:
            return numbers
        channels = mx.broadcast_to(grid.shift, (len(grid.scale), weight.shape[1]))
        biases = channels @ weight.T + (0 if bias is None else bias)
        return mx.concatenate([numbers, grid.shift / grid.scale[:, None], biases], axis=1)
