"""Checked Cholesky factors, and what is solved and estimated with them; NumPy in, NumPy out, on the CPU."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from jaxtyping import Float

from ditq.core.platform import prepare

Square = Float[np.ndarray, "in in"]
Columns = Float[np.ndarray, "in out"]
TOLERANCE = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-9}
"""How far L (L'v) may lie from A v, relative, for a factor to be believed."""
LEAF = 64
"""Columns of the triangles that are inverted."""


@dataclass(frozen=True, eq=False)
class Factor:
    """L, lower triangular, with A = L L'."""

    lower: Square

    @property
    def condition(self) -> float:
        """A lower bound of the condition number of A: the squared ratio of L's extreme diagonal entries."""
        diagonal = np.diagonal(self.lower).astype(np.float64)
        return float((diagonal.max() / diagonal.min()) ** 2)


def cholesky(matrix: Square) -> Factor | None:
    """The factor of a symmetric matrix in its own precision, or None where it is not numerically positive definite.

    Believed only when it is finite, its diagonal is positive, and it reproduces the product with a vector: a routine
    may return finite garbage without a word.
    """
    try:
        lower = _lower(matrix)
    except np.linalg.LinAlgError:
        return None
    diagonal = np.diagonal(lower)
    if not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
        return None
    probe = np.cos(np.arange(len(matrix))).astype(matrix.dtype)
    expected = matrix @ probe
    residual = np.linalg.norm(lower @ (probe @ lower) - expected)
    # Written so that NaN is refused as well
    return Factor(lower) if residual <= TOLERANCE[matrix.dtype] * np.linalg.norm(expected) else None


def _lower(matrix: Square) -> Square:
    if matrix.dtype == np.float32 and prepare().blas != "reference":
        return np.array(mx.linalg.cholesky(mx.array(matrix), stream=mx.cpu), copy=False)
    # Its transpose is the same matrix, in the order of LAPACK
    return np.linalg.cholesky(matrix.T)


def solve_lower(factor: Factor, right: Columns) -> Columns:
    """Y with L Y = `right`, halving: NumPy has no triangular solve, and this way products are all the work."""
    lower, solved = factor.lower, right.copy()

    def solve(start: int, end: int) -> None:
        if end - start <= LEAF:
            inverse = np.linalg.inv(lower[start:end, start:end].astype(np.float64)).astype(lower.dtype)
            solved[start:end] = inverse @ solved[start:end]
            return
        half = (start + end) // 2
        solve(start, half)
        solved[half:end] -= lower[half:end, start:half] @ solved[start:half]
        solve(half, end)

    solve(0, len(lower))
    return solved


def greatest_eigenvalue(matrix: Square, iterations: int = 15) -> float:
    """The greatest eigenvalue of a symmetric, positive semidefinite matrix, by power iteration."""
    value, image = 0.0, np.sqrt(np.diagonal(matrix))
    for _ in range(iterations):
        length = np.linalg.norm(image)
        if length == 0:
            return 0.0
        vector = image / length
        image = matrix @ vector
        value = float(vector @ image)
    return value
