"""MLX's packed storage of codes: what `mx.quantized_matmul` and every stock MLX loader read.

A row is the little-endian bit stream of its unsigned codes, `bits` each, seen as uint32 words; a value is
scales * u + biases, per group. Our codes go in as they are: quantizing a dequantized weight again changes some.
"""

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Integer, UInt32

from ditq.core.affine import code_dtype
from ditq.core.errors import UserError
from ditq.core.spec import GROUP_SIZES, Spec

BITS = (2, 3, 4, 5, 6, 8)
"""Widths that MLX can multiply with."""

Codes = Integer[mx.array, "rows columns"]
Words = UInt32[mx.array, "rows words"]
Scales = Float[mx.array, "rows groups"]
StoredScales = Float[mx.array, "rows stored_groups"]


def storage_group(spec: Spec, columns: int, name: str = "layer") -> int:
    """The group size under which a matrix is stored: its own, or for one scale a row the largest that divides it.

    A convolution's matrix, its unfolded kernel, is stored like any other. Raises UserError when MLX has no storage for
    these bits or columns.
    """
    if spec.bits not in BITS:
        widths = ", ".join(map(str, BITS))
        remedy = "choose other bits; only the npz files of adaround_optimize hold 7"
        raise UserError(
            f"{name}: packed storage",
            got=f"{spec.bits} bits",
            expected=f"one of {widths} bits",
            remedy=remedy,
        )
    if spec.group_size is not None:
        spec.groups(columns, name)
        return spec.group_size
    fitting = [size for size in GROUP_SIZES if columns % size == 0]
    if not fitting:
        raise UserError(
            f"{name}: packed storage",
            got=f"{columns} columns",
            expected=f"a multiple of {GROUP_SIZES[0]}",
            remedy="leave this layer float",
        )
    return fitting[-1]


def is_storable(spec: Spec, columns: int) -> bool:
    """Whether MLX has packed storage for these bits and columns."""
    try:
        storage_group(spec, columns)
    except UserError:
        return False
    return True


def bits_per_weight(bits: int, group: int, scale_bits: int) -> float:
    """Bits of a code with its part of the scale and the bias of its group."""
    return bits + 2 * scale_bits / group


def pack(
    codes: Codes, scale: Scales, zero: Scales, spec: Spec, name: str = "layer"
) -> tuple[Words, StoredScales, StoredScales]:
    """`weight`, `scales` and `biases` as MLX stores them; a scale per row is repeated for each of its groups."""
    rows, columns = codes.shape
    groups = columns // storage_group(spec, columns, name)
    repeats = groups // scale.shape[1]
    scales = mx.repeat(scale, repeats, axis=1)
    biases = (spec.qmin - mx.repeat(zero, repeats, axis=1)) * scales
    unsigned = (np.array(codes).astype(np.int16) - spec.qmin).astype(np.uint8)
    bits = np.unpackbits(unsigned[..., None], axis=-1, count=spec.bits, bitorder="little")
    words = np.packbits(bits.reshape(rows, -1), axis=-1, bitorder="little").view("<u4")
    return mx.array(words), scales, biases


def unpack(words: Words, spec: Spec) -> Codes:
    """The codes of packed words, in `affine.code_dtype`: signed on a symmetric grid."""
    stream = np.unpackbits(np.array(words).astype("<u4").view(np.uint8), axis=-1, bitorder="little")
    bits = stream.reshape(words.shape[0], -1, spec.bits)
    unsigned = np.packbits(bits, axis=-1, bitorder="little")[..., 0]
    return mx.array(unsigned.astype(np.int16) + spec.qmin).astype(code_dtype(spec))
