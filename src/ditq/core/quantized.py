"""A weight on its grid: what every weight method returns, and what every checkpoint holds."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer

from ditq.core import affine, numbers, packing
from ditq.core.errors import UserError
from ditq.core.spec import Spec


@dataclass(frozen=True)
class QuantizedWeight:
    """Integer codes with the scale and the zero point of each of their groups: value = scale (code - zero)."""

    codes: Integer[mx.array, "out columns"]
    """int8 on a symmetric grid, else uint8: `affine.code_dtype`. Of a convolution, those of its unfolded kernel."""
    scale: Float[mx.array, "out groups"]
    """Steps, never maxima."""
    zero: Float[mx.array, "out groups"]
    """Whole numbers; zeros on a symmetric grid."""
    spec: Spec
    smooth: Float[mx.array, "in"] | None = None
    """Factors of the input channels: the weight was multiplied by them before it was put on the grid, so that the
    layer's input is to be divided by them (SmoothQuant, arXiv 2211.10438)."""
    bias: Float[mx.array, "out"] | None = None
    """The layer's bias in place of the float layer's; None: that one stays."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, columns): a linear layer has a column per input, a convolution per kernel pixel and input channel."""
        return self.codes.shape[0], self.codes.shape[1]

    def values(self) -> Float[mx.array, "out columns"]:
        """The values of the codes, float32; they multiply the smoothed input."""
        return affine.dequantize(self.codes, self.scale, self.zero)

    def effective(self) -> Float[mx.array, "out columns"]:
        """The weight that multiplies the plain input, float32."""
        if self.smooth is None:
            return self.values()
        by_channel = self.values().reshape(len(self.codes), -1, len(self.smooth))
        return (by_channel / self.smooth).reshape(self.shape)

    @property
    def is_half(self) -> bool:
        """Whether float16 holds the scales as they are, and their products with the zero points at all."""
        offsets = (self.spec.qmin - self.zero) * self.scale
        fits = mx.abs(offsets).max() <= affine.COARSE if offsets.size else True
        return bool(mx.array_equal(self.scale.astype(mx.float16).astype(mx.float32), self.scale) and fits)

    @property
    def bits_per_weight(self) -> float:
        """Bits of a code with its part of the scales and biases beside it, as a checkpoint folder packs them.

        Of codes that MLX does not pack: a byte each, and float32 scales, as npz files hold them.
        """
        if not packing.is_storable(self.spec, self.shape[1]):
            return 8 + 32 * self.scale.size / self.codes.size
        group = packing.storage_group(self.spec, self.shape[1])
        return packing.bits_per_weight(self.spec.bits, group, 16 if self.is_half else 32)

    def check(self, name: str, channels: int | None = None) -> None:
        """Raises UserError, with the layer's `name`, when a part is out of its grid, misshapen or senseless.

        `channels` are the layer's input channels. None where only the file is known: of a convolution they are some
        part of the columns.
        """
        if self.codes.ndim != 2 or not mx.issubdtype(self.codes.dtype, mx.integer):
            got = f"{self.codes.dtype} of shape {self.codes.shape}"
            raise UserError(f"{name}: codes", got=got, expected="a matrix of whole numbers, (out, columns)")
        rows, columns = self.shape
        expected = rows, self.spec.groups(columns, name, channels)
        for part, array in (("scale", self.scale), ("zero", self.zero)):
            if array.shape != expected:
                raise UserError(f"{name}: shape of {part}", got=array.shape, expected=str(expected))
            if not mx.issubdtype(array.dtype, mx.floating):
                raise UserError(f"{name}: {part}", got=str(array.dtype), expected="floating-point numbers")
        numbers.check_positive(self.scale, f"{name}: scale")
        ends = (0, 0) if self.spec.symmetric else (self.spec.qmin, self.spec.qmax)
        numbers.check_whole(self.zero, f"{name}: zero", *ends)
        if self.smooth is not None:
            if not fits_channels(self.smooth.shape, columns, channels):
                expected = f"({columns if channels is None else channels},)"
                raise UserError(f"{name}: shape of smooth", got=self.smooth.shape, expected=expected)
            numbers.check_positive(self.smooth, f"{name}: smooth", "factors")
        if self.bias is not None:
            if self.bias.shape != (rows,):
                raise UserError(f"{name}: shape of bias", got=self.bias.shape, expected=f"({rows},)")
            numbers.check_numbers(self.bias, f"{name}: bias")
        if self.codes.size:
            codes = np.array(self.codes)
            least, greatest = codes.min(), codes.max()
            if least < self.spec.qmin or greatest > self.spec.qmax:
                raise UserError(
                    f"{name}: codes",
                    got=f"from {least} to {greatest}",
                    expected=f"from {self.spec.qmin} to {self.spec.qmax} at {self.spec.bits} bits",
                )


def fits_channels(shape: tuple[int, ...], columns: int, channels: int | None = None) -> bool:
    """Whether an array of this shape has one value per input channel of a weight with `columns`.

    Where the channels are not known, any part of the columns may be: a convolution's are several times its channels.
    """
    if channels is not None:
        return shape == (channels,)
    return len(shape) == 1 and shape[0] > 0 and columns % shape[0] == 0
