"""What a quantization grid is: bits, symmetry and granularity. The arithmetic on it is in `core.affine`."""

from dataclasses import dataclass
from numbers import Integral
from typing import Annotated, Any

from ditq.core.errors import UserError
from ditq.core.schema import Limit, within

GROUP_SIZES = (32, 64, 128)
"""Group sizes that MLX's packed storage has."""


@dataclass(frozen=True)
class Spec:
    """A grid of `2**bits` levels, symmetric around zero or with a zero point, one scale per row or per group.

    Symmetric codes lie in [-2^(bits-1), 2^(bits-1) - 1], asymmetric ones in [0, 2^bits - 1].
    """

    bits: Annotated[int, within(2, 8)]
    symmetric: bool = True
    group_size: Annotated[int, Limit("that is 32, 64 or 128", lambda size: size in GROUP_SIZES)] | None = None
    """Columns that share a scale; None: a whole row (an output channel) shares one."""

    def __post_init__(self) -> None:
        if not is_whole(self.bits) or not 2 <= self.bits <= 8:
            raise UserError("bits", got=self.bits, expected="from 2 to 8")
        if self.group_size is not None and (
            not is_whole(self.group_size) or self.group_size not in GROUP_SIZES
        ):
            sizes = ", ".join(map(str, GROUP_SIZES))
            raise UserError("group size", got=self.group_size, expected=f"{sizes}, or none for per channel")

    @property
    def qmin(self) -> int:
        """The least code."""
        return -(2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def qmax(self) -> int:
        """The greatest code."""
        return self.qmin + 2**self.bits - 1

    def groups(self, columns: int, name: str = "layer", channels: int | None = None) -> int:
        """Groups in a row of `columns`. Raises UserError, with the layer's `name`, when they do not divide evenly.

        `channels` are the input channels where `columns` are those of an unfolded convolution kernel: its groups must
        not reach from one of the kernel's pixels into the next.
        """
        if self.group_size is None:
            return 1
        divided = columns if channels is None else channels
        if divided % self.group_size:
            fitting = [str(size) for size in GROUP_SIZES if divided % size == 0]
            remedy = f"use {' or '.join(fitting)}" if fitting else "quantize it per channel"
            what = f"{name}: in_features {divided} is not divisible"
            raise UserError(what, got=f"group size {self.group_size}", remedy=remedy)
        return columns // self.group_size


def is_whole(value: Any) -> bool:
    """Whether a value is an integer: NumPy's count, a bool and 4.0 do not."""
    return isinstance(value, Integral) and not isinstance(value, bool)
