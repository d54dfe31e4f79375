"""Arrays that float32 has no room to square, brought near 1 by a power of two, which changes no digit."""

import numpy as np
from jaxtyping import Float32

USUAL = (2.0**-32, 2.0**32)
"""Largest magnitudes that are left as they are: sums of squares of such numbers are far from float32's ends."""
Array = Float32[np.ndarray, "*shape"]


def exponent_of(*arrays: np.ndarray | None) -> int:
    """By which power of two the arrays are to be divided, all of them; 0 where they are of a usual size."""
    largest = max((float(np.abs(array).max(initial=0)) for array in arrays if array is not None), default=0.0)
    if largest == 0 or not np.isfinite(largest) or USUAL[0] <= largest <= USUAL[1]:
        return 0
    return int(np.frexp(largest)[1])


def divided(array: Array, exponent: int) -> Array:
    """The array by 2^exponent; itself where that is 1."""
    return array if exponent == 0 else np.ldexp(array, -exponent)
