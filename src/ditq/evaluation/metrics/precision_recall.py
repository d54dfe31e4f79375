"""Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991)."""

from collections.abc import Iterator

import numpy as np

from ditq.evaluation.metrics.base import Better
from ditq.evaluation.metrics.sets import Features, SetMetric

NEIGHBOURS = 3
"""k of the paper: a picture's ball reaches to its third nearest neighbour."""
ROWS = 1000
"""Rows of the matrix of distances that are computed at a time."""


class Precision(SetMetric):
    """Share of the candidate's pictures that lie among the reference's: in the ball of one of them."""

    name = "precision"
    better: Better = "higher"

    def distance(self, reference: Features, candidate: Features) -> float:
        """Equation 2 with the reference's manifold."""
        return covered(candidate, reference)


class Recall(SetMetric):
    """Share of the reference's pictures that lie among the candidate's: what a model left out, lowers it."""

    name = "recall"
    better: Better = "higher"

    def distance(self, reference: Features, candidate: Features) -> float:
        """Equation 2 with the candidate's manifold."""
        return covered(reference, candidate)


def covered(features: Features, manifold: Features, neighbours: int = NEIGHBOURS) -> float:
    """Share of `features` no farther from some row of `manifold` than that row's k-th nearest neighbour in it."""
    middle = manifold.mean(0)  # squared distances are differences of squares: these shall be small
    features, manifold = features - middle, manifold - middle
    radii = np.concatenate(
        [np.partition(rows, neighbours, axis=1)[:, neighbours] for rows in _squares(manifold, manifold)]
    )  # the row itself is the nearest, at 0
    inside = [(rows <= radii).any(1) for rows in _squares(features, manifold)]
    return float(np.concatenate(inside).mean())


def _squares(x: Features, y: Features) -> Iterator[Features]:
    """Squared distances of rows of x to all rows of y, ROWS at a time; never below 0 by rounding."""
    lengths = np.square(y).sum(1)
    for start in range(0, len(x), ROWS):
        some = x[start : start + ROWS]
        found = np.square(some).sum(1)[:, None] + lengths - 2 * some @ y.T
        yield np.maximum(found, 0)
