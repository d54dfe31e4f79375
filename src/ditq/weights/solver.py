"""The one loop of GPTQ and Qronos: columns rounded one after the other, each correcting the ones before it.

With A = H + lam I = L L', the columns in reverse order of treatment, the loss of a row w on the grid point q is
|(w - q) L + y'|^2, plus what no q can change; y = L^-1 X~'(X - X~) w' is the mismatch of the streams and 0 for GPTQ.
Entry j of that vector holds columns i >= j alone, so that from the last column to the first

    q_j = nearest(w_j + y_j / L_jj + sum over i > j of (w_i - q_i) L_ij / L_jj)

makes each entry least, given the columns before it. These are the codes of GPTQ (Frantar et al. 2022, arXiv 2210.17323)
at a quarter of the operations: one factorization in place of an inverse and a second one. With y, w - q is taken from
W* = (H + lam I)^-1 (X~'X + lam I) W, which makes the same loop Qronos (Zhang et al. 2025, arXiv 2505.11695).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ditq.core.affine import nearest
from ditq.core.spec import Spec
from ditq.weights.factor import Factor

Columns = Float[np.ndarray, "in out"]
LEAF = 32
"""Columns whose corrections are vector by matrix; wider blocks are products of matrices."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Scales and zero points of a weight, group by group, and the group of each column."""

    scale: Float[np.ndarray, "groups out"]
    zero: Float[np.ndarray, "groups out"]
    group: Int[np.ndarray, "in"]
    spec: Spec

    @classmethod
    def of(
        cls,
        scale: Float[np.ndarray, "out groups"],
        zero: Float[np.ndarray, "out groups"],
        columns: int,
        spec: Spec,
    ):
        """The grid of a weight whose scales stand row by row."""
        group = np.arange(columns) // (columns // scale.shape[1])
        return cls(np.ascontiguousarray(scale.T), np.ascontiguousarray(zero.T), group, spec)

    def take(self, columns: Int[np.ndarray, "in"]) -> "Grid":
        """The grid of the columns in another order; the groups stay those of the original one."""
        return Grid(self.scale, self.zero, self.group[columns], self.spec)


def treatment_order(diagonal: Float[np.ndarray, "in"], act_order: bool) -> Int[np.ndarray, "in"]:
    """The columns in reverse order of treatment: by rising H_jj, so that the largest come first, or as they stand."""
    first_to_last = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(diagonal))
    return first_to_last[::-1].copy()


def round_columns(
    weight: Columns,
    factor: Factor,
    grid: Grid,
    shift: Columns | None = None,
    first: Float[np.ndarray, "out"] | None = None,
) -> Columns:
    """The codes of a weight, transposed, its columns in reverse order of treatment; whole numbers in its dtype.

    `shift` is y / diag(L); `first` is the rounding argument of the first column treated, which Qronos takes
    from the weight as it is and not from W*.
    """
    lower, diagonal = factor.lower, np.diagonal(factor.lower)
    arguments = weight.copy() if shift is None else weight + shift
    if first is not None:
        arguments[-1] = first
    codes, differences = np.empty_like(weight), np.empty_like(weight)

    def descend(start: int, end: int) -> None:
        if end - start <= LEAF:
            one_by_one(start, end)
            return
        half = (start + end) // 2
        descend(half, end)
        corrections = lower[half:end, start:half] / diagonal[start:half]
        arguments[start:half] += corrections.T @ differences[half:end]
        descend(start, half)

    def one_by_one(start: int, end: int) -> None:
        corrections = lower[start:end, start:end] / diagonal[start:end]
        for column in reversed(range(start, end)):
            later = corrections[column - start + 1 :, column - start] @ differences[column + 1 : end]
            scale, zero = grid.scale[grid.group[column]], grid.zero[grid.group[column]]
            codes[column] = nearest(arguments[column] + later, scale, zero, grid.spec)
            differences[column] = weight[column] - (codes[column] - zero) * scale

    descend(0, len(lower))
    return codes
