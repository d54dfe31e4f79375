"""What quantized linear layers and convolutions share: their codes, and their part of the step's numbers."""

from collections.abc import Callable
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float

from ditq.core import affine, packing
from ditq.core.activation_grid import ActivationGrid, GridRows
from ditq.core.quantized import QuantizedWeight
from ditq.nn.clock import StepClock, rows_source

Backend = Literal["packed", "codes"]
NUMBERS = 5
"""Inverse scale, lower bound, upper bound, scale, and the row's `below` or `per_token`: what every row starts with."""


def usual_backend(weight: QuantizedWeight) -> Backend:
    """Packed words on a GPU, where MLX has storage for this weight; else plain codes.

    MLX packs neither 7 bits nor the 36 columns of a 3x3 convolution from 4 channels.
    """
    on_gpu = mx.default_device().type == mx.DeviceType.gpu
    return "packed" if on_gpu and packing.is_storable(weight.spec, weight.shape[1]) else "codes"


class QuantizedLayer(nn.Module):
    """Weight codes, as MLX's packed words or as int8, and rows of a clock that put the input on its grid.

    Weights are split so that with one scale per row every product of codes is a whole number, times a power of two in
    packed words; `multiplier` (out) turns finished sums into values. With a scale per group it is None.
    `shifted` gives the part of a shifted grid's rows that lies behind its offsets: what the shift adds to the output.
    """

    def __init__(
        self,
        weight: QuantizedWeight,
        grid: ActivationGrid,
        clock: StepClock,
        backend: Backend,
        shifted: Callable[[Float[mx.array, "rows channels"]], mx.array],
    ):
        super().__init__()
        codes, scale, zero, spec = weight.codes, weight.scale, weight.zero, weight.spec
        self.spec, self.backend = spec, backend
        per_row = spec.group_size is None
        if backend == "packed":
            # s = m 2^e: the products carry the power of two exactly, and m scales the finished sums.
            mantissa, exponent = np.frexp(np.array(scale, np.float32))
            inner = mx.array(np.ldexp(np.float32(1), exponent).astype(np.float32)) if per_row else scale
            self.group_size = packing.storage_group(spec, codes.shape[1])
            self.weight, self.scales, self.biases = packing.pack(codes, inner, zero, spec)
            self.multiplier = mx.array(mantissa[:, 0]) if per_row else None
        else:
            middle = spec.qmin + 2 ** (spec.bits - 1)  # codes from 0 to 255 are no int8
            self.codes = (codes.astype(mx.int16) - middle).astype(mx.int8)
            self.zeros = None if spec.symmetric else zero - middle
            self.group_scales = None if per_row else scale
            self.multiplier = scale[:, 0] if per_row else None
        self.smooth = None if grid.smooth is None else 1 / grid.smooth
        self._kind: str | None = None
        self._offsets = 0
        """Columns of the grid's shift: none, one, or one per input channel."""

        def tabulate(rows: GridRows) -> mx.array:
            self._kind = rows.kind
            own = rows.below if rows.per_token is None else rows.per_token
            own = mx.ones_like(rows.scale) if own is None else own
            numbers = mx.stack([1 / rows.scale, rows.qmin, rows.qmax, rows.scale, own], axis=1)
            if rows.shift is None:
                return numbers
            self._offsets = rows.shift.shape[1]
            return mx.concatenate([numbers, rows.shift / rows.scale[:, None], shifted(rows.shift)], axis=1)

        self._clock = clock
        self._columns = clock.register(*rows_source(grid, tabulate))

    def encoded(
        self, x: Float[mx.array, "*rows channels"], axes: tuple[int, ...] = (-1,)
    ) -> tuple[Float[mx.array, "*rows channels"], Float[mx.array, "..."], Float[mx.array, "added"]]:
        """The codes of x at the clock's step, what turns sums of products into values, and what the shift adds.

        On a grid per token, a token is what lies along these axes of x.
        """
        row = self._clock.row(self._columns)
        inverse, qmin, qmax, scale, own = row[0], row[1], row[2], row[3], row[4]
        offset, added = row[NUMBERS : NUMBERS + self._offsets], row[NUMBERS + self._offsets :]
        values = x.astype(mx.float32)
        if self.smooth is not None:
            values = values * self.smooth
        if self._kind == "per-token":
            scale = own * affine.widest_step(values, qmax, axes)
            inverse = 1 / scale
        if self._kind == "dual-scale":
            codes = affine.encode_halves(values, inverse, own, qmin, qmax)
        else:
            codes = affine.encode(values, inverse, offset if self._offsets else mx.array(0.0), qmin, qmax)
        return codes, scale if self.multiplier is None else scale * self.multiplier, added

    @property
    def whole(self) -> bool:
        """Whether the sums of products are of whole numbers, and so the same in any order."""
        return self.multiplier is not None and self._kind != "dual-scale"

    def matrix(self) -> Float[mx.array, "out columns"]:
        """What multiplies the codes of the input, unpacked."""
        if self.backend == "packed":
            return mx.dequantize(
                self.weight, self.scales, self.biases, group_size=self.group_size, bits=self.spec.bits
            )
        if self.group_scales is not None:
            zeros = mx.zeros_like(self.group_scales) if self.zeros is None else self.zeros
            return affine.dequantize(self.codes, self.group_scales, zeros)
        codes = self.codes.astype(mx.float32)
        return codes if self.zeros is None else codes - self.zeros
