"""Sums of products X'Y over batches of rows, added up in place."""

import numpy as np
from jaxtyping import Float32
from scipy.linalg import get_blas_funcs

from ditq.weights.columns.factor import mirror

LeftRows = Float32[np.ndarray, "rows left"]
RightRows = Float32[np.ndarray, "rows right"]


class Gram:
    """X'X: one triangle alone (BLAS's syrk), half the work of a product, until `whole` asks for the matrix."""

    def __init__(self, columns: int):
        self._sum = np.zeros((columns, columns), np.float32)
        (self._multiply,) = get_blas_funcs(("syrk",), (self._sum,))

    def add(self, x: LeftRows) -> None:
        """Takes in some rows."""
        # BLAS counts columns first: transposed, both are as they lie in memory, and nothing is copied
        self._multiply(1.0, x.T, beta=1.0, c=self._sum.T, overwrite_c=True)

    def is_finite(self) -> bool:
        """Whether all values so far were finite, and their squares too."""
        return bool(np.isfinite(np.diagonal(self._sum)).all())

    def whole(self) -> Float32[np.ndarray, "left left"]:
        """The symmetric matrix; more rows may follow."""
        mirror(self._sum)
        return self._sum


class CrossGram:
    """X'Y of two kinds of rows."""

    def __init__(self, left: int, right: int):
        self._sum = np.zeros((left, right), np.float32, order="F")
        (self._multiply,) = get_blas_funcs(("gemm",), (self._sum,))

    def add(self, x: LeftRows, y: RightRows) -> None:
        """Takes in some rows of both."""
        self._sum = self._multiply(1.0, x.T, y.T, beta=1.0, c=self._sum, trans_b=True, overwrite_c=True)

    def whole(self) -> Float32[np.ndarray, "left right"]:
        """The matrix."""
        return self._sum
