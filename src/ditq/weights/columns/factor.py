"""Symmetric matrices: mirrored, reordered, factored with a check, solved with; NumPy in, NumPy out, on the CPU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import get_blas_funcs, get_lapack_funcs

Square = Float[np.ndarray, "in in"]
Columns = Float[np.ndarray, "in out"]
TOLERANCE = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-9}
"""How far L (L'v) may lie from A v, relative, for a factor to be accepted."""
TILE = 64
"""Rows or columns that are moved at once, so that they stay in the cache."""


@dataclass(frozen=True, eq=False)
class Factor:
    """L, lower triangular, with A = L L'."""

    lower: Square
    """L; what stands above its diagonal is another's."""

    @property
    def condition(self) -> float:
        """A lower bound of the condition number of A: the squared ratio of L's extreme diagonal entries."""
        diagonal = np.diagonal(self.lower).astype(np.float64)
        return float((diagonal.max() / diagonal.min()) ** 2)


def mirror(matrix: Square) -> None:
    """Puts what is below the diagonal above it as well, in place."""
    for start in range(0, len(matrix), TILE):
        tile = slice(start, start + TILE)
        square = np.tril(matrix[tile, tile])
        matrix[tile, tile] = square + np.tril(square, -1).T
        for other in range(start + TILE, len(matrix), TILE):
            matrix[tile, other : other + TILE] = matrix[other : other + TILE, tile].T


def reorder(matrix: Square, order: Int[np.ndarray, "in"]) -> None:
    """Makes row and column i what row and column `order[i]` were, in place."""
    for start in range(0, len(matrix), TILE):
        rows = matrix[start : start + TILE]
        # Any mode but the default writes straight into `out`
        np.take(rows.copy(), order, axis=1, out=rows, mode="clip")
    for start in range(0, len(matrix), TILE):
        tile = slice(start, start + TILE)
        matrix[:, tile] = matrix[:, tile].take(order, axis=0)


@np.errstate(over="ignore", invalid="ignore")
def cholesky(matrix: Square, added: float = 0.0) -> Factor | None:
    """The factor of a symmetric matrix plus `added` on its diagonal, in the matrix's own precision and memory.

    What is below the matrix's diagonal stays; L, transposed, takes the rest. None where the sum is not numerically
    positive definite. A factor is accepted only when it is finite, its diagonal is positive, and it reproduces the
    product with a vector: a routine may return finite garbage without an error.
    """
    probe = np.cos(np.arange(len(matrix))).astype(matrix.dtype)
    expected = matrix @ probe + np.asarray(added, matrix.dtype) * probe
    # Its transpose is the same matrix, in LAPACK's order
    lower = matrix.T
    lower[np.diag_indices(len(lower))] += added
    (factorize,), (multiply,) = get_lapack_funcs(("potrf",), (lower,)), get_blas_funcs(("trmv",), (lower,))
    lower, refused = factorize(lower, lower=True, clean=False, overwrite_a=True)
    diagonal = np.diagonal(lower)
    if refused or not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
        return None
    found = multiply(lower, multiply(lower, probe, lower=True, trans=True), lower=True)
    # Written so that NaN is refused as well
    accepted = _norm(found - expected) <= TOLERANCE[matrix.dtype] * _norm(expected)
    return Factor(lower) if accepted else None


def _norm(vector: Float[np.ndarray, "in"]) -> np.floating:
    """The Euclidean norm in the vector's precision; in float64 where its squares overflow."""
    with np.errstate(over="ignore"):
        norm = np.linalg.norm(vector)
    return norm if np.isfinite(norm) else np.linalg.norm(vector.astype(np.float64))


def solve_lower(factor: Factor, right: Columns) -> Columns:
    """Y with L Y = `right`."""
    # Y' L' = right': in BLAS's order of columns nothing is copied but the right side
    (solve,) = get_blas_funcs(("trsm",), (factor.lower, right))
    return solve(1.0, factor.lower, right.T, side=True, lower=True, trans_a=True).T


def greatest_eigenvalue(matrix: Square, iterations: int = 15) -> float:
    """The greatest eigenvalue of a symmetric, positive semidefinite matrix, by power iteration.

    In the matrix's own precision; in float64 where that has no room for the numbers in between.
    """
    value, image = 0.0, np.sqrt(np.diagonal(matrix))
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(iterations):
            length = np.linalg.norm(image)
            if length == 0:
                break
            vector = image / length
            image = matrix @ vector
            value = float(vector @ image)
    if matrix.dtype == np.float64 or (np.isfinite(value) and value > 0):
        return value
    greatest = float(np.abs(matrix).max(initial=0))
    return (
        greatest * greatest_eigenvalue(matrix.astype(np.float64) / greatest, iterations) if greatest else 0.0
    )
