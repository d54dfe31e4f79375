"""Sums of products X'Y of rows that stream by, added up in place."""

import numpy as np
from jaxtyping import Float32
from scipy.linalg import get_blas_funcs

Rows = Float32[np.ndarray, "rows left"]
OtherRows = Float32[np.ndarray, "rows right"]
TILE = 256
"""Side of the squares in which a triangle is mirrored, so that both sides stay in the cache."""


class Gram:
    """X'X: one triangle alone (BLAS's syrk), half the work of a product, until `whole` asks for the matrix."""

    def __init__(self, columns: int):
        self._triangle = np.zeros((columns, columns), np.float32, order="F")
        (self._multiply,) = get_blas_funcs(("syrk",), (self._triangle,))

    def add(self, x: Rows) -> None:
        """Takes in some rows."""
        # BLAS counts columns first: x.T is x as it lies in memory, and nothing is copied
        self._triangle = self._multiply(1.0, x.T, beta=1.0, c=self._triangle, overwrite_c=True)

    def whole(self) -> Float32[np.ndarray, "left left"]:
        """The symmetric matrix; more rows may follow."""
        matrix = self._triangle
        for start in range(0, len(matrix), TILE):
            tile = slice(start, start + TILE)
            square = np.triu(matrix[tile, tile])
            matrix[tile, tile] = square + np.triu(square, 1).T
            for other in range(start + TILE, len(matrix), TILE):
                matrix[other : other + TILE, tile] = matrix[tile, other : other + TILE].T
        return matrix.T


class CrossGram:
    """X'Y of two kinds of rows."""

    def __init__(self, left: int, right: int):
        self._sum = np.zeros((left, right), np.float32, order="F")
        (self._multiply,) = get_blas_funcs(("gemm",), (self._sum,))

    def add(self, x: Rows, y: OtherRows) -> None:
        """Takes in some rows of both."""
        self._sum = self._multiply(1.0, x.T, y.T, beta=1.0, c=self._sum, trans_b=True, overwrite_c=True)

    def whole(self) -> Float32[np.ndarray, "left right"]:
        """The matrix."""
        return self._sum
