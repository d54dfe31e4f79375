"""Which numbers a quantized model may hold: the one place that says so, asked wherever such numbers are read."""

import mlx.core as mx
import numpy as np

from ditq.core.errors import UserError
from ditq.core.schema import Limit

SMALLEST = float(np.finfo(np.float32).tiny)
"""The smallest normal float32 (1.2e-38). Below it steps lose digits, GPUs take them for 0, and 1 / step overflows."""
LARGEST = 2.0**63
"""About 9.2e18. The product of two such numbers is still finite in float32; layers multiply what they hold."""
POSITIVE = Limit(f"from {SMALLEST:.2g} to {LARGEST:.2g}", lambda value: SMALLEST <= value <= LARGEST)
FINITE = Limit(f"of at most {LARGEST:.2g}", lambda value: abs(value) <= LARGEST)
"""The same two for JSON, see `core.schema`."""
Array = mx.array | np.ndarray


def check_positive(values: Array, where: str, what: str = "steps") -> None:
    """Raises UserError, beginning with `where`, unless all values are from `SMALLEST` to `LARGEST`."""
    _refuse(values, where, f"{what} above 0, from {SMALLEST:.2g} to {LARGEST:.2g}", SMALLEST)


def check_numbers(values: Array, where: str) -> None:
    """Raises UserError, beginning with `where`, unless all values are finite and at most `LARGEST` in magnitude."""
    _refuse(values, where, f"finite numbers, at most {LARGEST:.2g}", -LARGEST)


def check_whole(values: Array, where: str, low: int, high: int) -> None:
    """Raises UserError, beginning with `where`, unless all values are whole numbers from `low` to `high`."""
    found = np.asarray(values)
    wrong = found[~((found >= low) & (found <= high) & (found == np.rint(found)))]
    if wrong.size:
        expected = f"whole numbers from {low} to {high}" if low < high else str(low)
        raise _senseless(wrong, where, expected)


def _refuse(values: Array, where: str, expected: str, low: float) -> None:
    found = np.asarray(values)
    wrong = found[~((found >= low) & (found <= LARGEST))]  # NaN is in no range
    if wrong.size:
        raise _senseless(wrong, where, expected)


def _senseless(wrong: np.ndarray, where: str, expected: str) -> UserError:
    first = f"{float(wrong.flat[0]):.4g}"
    if not np.isfinite(wrong).all():
        first = f"values that are not finite ({first})"
    return UserError(where, got=first, expected=expected, remedy="make the file again, or copy it again")
