"""Bits where they save most error: a knapsack over all layers and timesteps, solved on its convex hull."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int64

from ditq.core.errors import UserError


def allocate(
    errors: Float[np.ndarray, "items options"],
    bits: Sequence[int],
    sizes: Float[np.ndarray, "items"],
    average: float,
) -> Int64[np.ndarray, "items"]:
    """The option of each item, with the least total error at no more than `average` bits per unit of size.

    `bits` rise from option to option. Every item starts at the first; then the steps along the items' lower convex
    hulls are taken by what they save per bit, as far as they fit. That is the optimum wherever the budget is used up
    without leaving a step out, and at most one step's saving away from it elsewhere (Shoham & Gersho 1988). Raises
    UserError for a budget below the first option.
    """
    if average < bits[0]:
        raise UserError("--average-bits", got=average, expected=f"at least {bits[0]}")
    left = (average - bits[0]) * float(sizes.sum())
    slack = 1e-9 * float(sizes.sum())
    steps = []
    for item, (row, size) in enumerate(zip(errors, sizes, strict=True)):
        hull = lower_hull(row, bits)
        for one, other in pairwise(hull):
            cost = float(size) * (bits[other] - bits[one])
            steps.append((float(row[one] - row[other]) / cost, item, one, other, cost))
    chosen = np.zeros(len(errors), np.int64)
    for _, item, one, other, cost in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        if chosen[item] == one and cost <= left + slack:
            chosen[item] = other
            left -= cost
    return chosen


def lower_hull(errors: Float[np.ndarray, "options"], bits: Sequence[int]) -> list[int]:
    """The options from the first on that lie on the lower convex hull of error over bits, while the error falls."""
    hull = [0]
    for option in range(1, len(bits)):
        if errors[option] >= errors[hull[-1]]:
            continue
        while len(hull) > 1 and _slope(errors, bits, hull[-2], hull[-1]) >= _slope(
            errors, bits, hull[-1], option
        ):
            hull.pop()
        hull.append(option)
    return hull


def _slope(errors: Float[np.ndarray, "options"], bits: Sequence[int], one: int, other: int) -> float:
    return float(errors[other] - errors[one]) / (bits[other] - bits[one])
