"""Checked Cholesky factors, and what is solved and estimated with them; NumPy in, NumPy out, on the CPU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_blas_funcs, get_lapack_funcs

Square = Float[np.ndarray, "in in"]
Columns = Float[np.ndarray, "in out"]
TOLERANCE = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-9}
"""How far L (L'v) may lie from A v, relative, for a factor to be believed."""
TILE = 256
"""Columns above whose diagonal zeros are written at once."""


@dataclass(frozen=True, eq=False)
class Factor:
    """L, lower triangular, with A = L L'."""

    lower: Square

    @property
    def condition(self) -> float:
        """A lower bound of the condition number of A: the squared ratio of L's extreme diagonal entries."""
        diagonal = np.diagonal(self.lower).astype(np.float64)
        return float((diagonal.max() / diagonal.min()) ** 2)


def cholesky(matrix: Square, added: float = 0.0) -> Factor | None:
    """The factor of a symmetric matrix plus `added` on its diagonal, in the matrix's own precision.

    None where it is not numerically positive definite. Believed only when it is finite, its diagonal is positive, and
    it reproduces the product with a vector: a routine may return finite garbage without a word.
    """
    # Its transpose is the same matrix, in the order of LAPACK
    lower = matrix.T.copy(order="F")
    lower[np.diag_indices(len(lower))] += added
    (factorize,) = get_lapack_funcs(("potrf",), (lower,))
    lower, refused = factorize(lower, lower=True, clean=False, overwrite_a=True)
    diagonal = np.diagonal(lower)
    if refused or not (np.isfinite(diagonal).all() and (diagonal > 0).all()):
        return None
    for start in range(0, len(lower), TILE):
        tile = slice(start, start + TILE)
        lower[:start, tile], lower[tile, tile] = 0, np.tril(lower[tile, tile])
    probe = np.cos(np.arange(len(matrix))).astype(matrix.dtype)
    expected = matrix @ probe + np.asarray(added, matrix.dtype) * probe
    residual = np.linalg.norm(lower @ (probe @ lower) - expected)
    # Written so that NaN is refused as well
    return Factor(lower) if residual <= TOLERANCE[matrix.dtype] * np.linalg.norm(expected) else None


def solve_lower(factor: Factor, right: Columns) -> Columns:
    """Y with L Y = `right`."""
    # Y' L' = right': in BLAS's order of columns nothing is copied but the right side
    (solve,) = get_blas_funcs(("trsm",), (factor.lower, right))
    return solve(1.0, factor.lower, right.T, side=True, lower=True, trans_a=True).T


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
