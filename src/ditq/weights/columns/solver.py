"""The one loop of GPTQ and Qronos: columns rounded one after the other, each correcting the ones before it.

With A = H + lam I = L L', the columns in reverse order of treatment, the loss of a row w on the grid point q is
|(w - q) L + y'|^2, plus what no q can change; y = L^-1 X~'(X - X~) w' is the mismatch of the streams and 0 for GPTQ.
Entry j of that vector holds columns i >= j alone, so that from the last column to the first

    q_j = nearest(w_j + y_j / L_jj + sum over i > j of (w_i - q_i) L_ij / L_jj)

makes each entry least, given the columns before it. These are the codes of GPTQ (Frantar et al. 2022, arXiv 2210.17323)
at a quarter of the operations: one factorization in place of an inverse and a second one. With y, w - q is taken from
W* = (H + lam I)^-1 (X~'X + lam I) W, which makes the same loop Qronos (Zhang et al. 2025, arXiv 2505.11695).
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Integer
from scipy.linalg import get_blas_funcs

from ditq.core.affine import code_dtype
from ditq.core.affine_numpy import reach, steps_from_zero
from ditq.core.spec import Spec
from ditq.weights.columns.factor import Factor

Columns = Float[np.ndarray, "in out"]
Codes = Integer[np.ndarray, "in out"]
LEAF = 32
"""Columns whose corrections are vector by matrix; wider blocks are products of matrices."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Scales and zero points of a weight, group by group, and the group of each column."""

    scale: Float[np.ndarray, "groups out"]
    zero: Float[np.ndarray, "groups out"]
    least: Float[np.ndarray, "groups out"]
    """How many steps the grid's lower end lies from zero."""
    greatest: Float[np.ndarray, "groups out"]
    """How many its upper end."""
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
        scale, zero = np.ascontiguousarray(scale.T), np.ascontiguousarray(zero.T)
        return cls(scale, zero, *reach(zero, spec), np.arange(columns) // (columns // len(scale)), spec)

    def take(self, columns: Int[np.ndarray, "in"]) -> "Grid":
        """The grid of the columns in another order; the groups stay those of the original one."""
        return replace(self, group=self.group[columns])


def treatment_order(diagonal: Float[np.ndarray, "in"], act_order: bool) -> Int[np.ndarray, "in"]:
    """The columns in reverse order of treatment: by rising H_jj, so that the largest come first, or as they stand."""
    first_to_last = np.argsort(-diagonal, kind="stable") if act_order else np.arange(len(diagonal))
    return first_to_last[::-1].copy()


def round_columns(
    weight: Columns,
    factor: Factor,
    grid: Grid,
    mismatch: Columns | None = None,
    first: Float[np.ndarray, "out"] | None = None,
) -> tuple[Codes, Columns]:
    """The codes, and what each weight loses, w - q; transposed, columns in reverse order of treatment.

    `mismatch` is y, and may be used up; `first` is the rounding argument of the first column treated, which Qronos
    takes from the weight as it is and not from W*.
    """
    lower, diagonal = factor.lower, np.diagonal(factor.lower)
    # Lists of rows: indexing them is quicker than indexing an array
    scale, least, greatest = list(grid.scale), list(grid.least), list(grid.greatest)
    multiply, combine = get_blas_funcs(("gemm", "gemv"), (lower,))
    codes = np.empty(weight.shape, code_dtype(grid.spec, np))
    # A column that is still to come holds what those before it add up to. Row by row in memory, in one dtype: BLAS
    # would write into a copy of anything else, and its result would be lost
    lost = np.zeros(weight.shape, lower.dtype) if mismatch is None else mismatch
    lost = np.ascontiguousarray(lost, dtype=lower.dtype)

    def descend(start: int, end: int) -> None:
        if end - start <= LEAF:
            one_by_one(slice(start, end))
            return
        half = (start + end) // 2
        descend(half, end)
        # lost[start:half] += lower[half:end, start:half].T @ lost[half:end], in place
        block, into = lower[half:end, start:half], lost[start:half].T
        multiply(1.0, lost[half:end].T, block, beta=1.0, c=into, overwrite_c=True)
        descend(start, half)

    def one_by_one(leaf: slice) -> None:
        values, losses, groups = weight[leaf], lost[leaf], grid.group[leaf]
        arguments = losses / diagonal[leaf, None]
        arguments += values
        if first is not None and leaf.stop == len(lower):
            arguments[-1] = first
        shares = np.ascontiguousarray((lower[leaf, leaf] / diagonal[leaf]).T)
        # Iterating over the rows is quicker than indexing them
        columns = zip(range(len(groups)), groups.tolist(), arguments, values, losses, shares, strict=True)
        for column, group, argument, value, loss, share in reversed(list(columns)):
            if column + 1 < len(losses):
                # argument += share[column + 1 :] @ losses[column + 1 :], in place
                treated = losses[column + 1 :].T
                combine(1.0, treated, share[column + 1 :], beta=1.0, y=argument, overwrite_y=True)
            steps = steps_from_zero(argument, scale[group], least[group], greatest[group], out=argument)
            np.multiply(steps, scale[group], out=loss)
            np.subtract(value, loss, out=loss)
        codes[leaf] = arguments if grid.spec.symmetric else arguments + grid.zero[groups]

    descend(0, len(lower))
    return codes, lost
