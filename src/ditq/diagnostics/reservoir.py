"""A random subset of rows that does not depend on the order in which they come, nor on how they are divided."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64


@dataclass
class Reservoir:
    """The `size` rows of least priority among all that were offered (bottom-k sampling).

    Priorities are random numbers that belong to the rows, so the subset is uniform without replacement, and the
    reservoir of a whole is made of those of its parts.
    """

    size: int
    priorities: Float64[np.ndarray, "rows"]
    """Rising."""
    rows: Float[np.ndarray, "rows channels"]
    """In the dtype that was offered, until `pack`."""

    @staticmethod
    def empty(size: int, channels: int) -> "Reservoir":
        """A reservoir without rows."""
        return Reservoir(size, np.zeros(0), np.zeros((0, channels), np.float16))

    def offer(
        self, priorities: Float64[np.ndarray, "offered"], rows: Float[np.ndarray, "offered channels"]
    ) -> None:
        """Keeps the rows that belong to the `size` of least priority; none is copied that does not."""
        limit = self.priorities[-1] if len(self.priorities) == self.size else np.inf
        good = np.flatnonzero(priorities < limit)
        if len(good) > self.size:
            good = np.sort(good[np.argpartition(priorities[good], self.size)[: self.size]])
        if not good.size:
            return
        both = np.concatenate([self.priorities, priorities[good]])
        order = np.argsort(both, kind="stable")[: self.size]
        self.rows = np.concatenate([self.rows, rows[good]])[order]
        self.priorities = both[order]

    def pack(self) -> None:
        """Rounds the rows to float16, unless a value would overflow."""
        largest = np.abs(self.rows).max(initial=0)
        if largest <= np.finfo(np.float16).max:
            self.rows = self.rows.astype(np.float16)

    def add(self, other: "Reservoir") -> None:
        """Adds the rows of `other`."""
        self.offer(other.priorities, other.rows)
