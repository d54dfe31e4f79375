"""Bits by the size of what a layer receives: the three tiers of the documents."""

from dataclasses import dataclass

import numpy as np

from ditq.core.errors import UserError
from ditq.diagnostics import InputStatistics
from ditq.diagnostics.layer_inputs import magnitude

TIERS = (4, 6, 8)


@dataclass(frozen=True)
class Reach:
    """How far the values of a layer's input go at one timestep."""

    range: float
    """The greatest average |x| of a channel's extremes; post-GELU: of |x - shift|."""
    p50: float
    p99: float
    """Quantiles of all |x|."""
    shifted: bool
    """Whether `range` is around the channels' shifts."""


@dataclass(frozen=True)
class Tiers:
    """A4 below the first limit, A6 below the second, A8 from there on or for a long tail."""

    a4_below: float = 6.0
    a4_below_shifted: float = 5.0
    a6_below: float = 10.0
    tail_from: float = 40.0
    """p99/p50 of |x| from which a layer gets A8 whatever its range."""

    def __post_init__(self) -> None:
        limits = (self.a4_below, self.a4_below_shifted, self.a6_below, self.tail_from)
        if not all(limit > 0 for limit in limits):
            raise UserError("tier limits", got=limits, expected="numbers above 0")
        if max(self.a4_below, self.a4_below_shifted) > self.a6_below:
            raise UserError("--a6-below", got=self.a6_below, expected="at least the limits of A4")

    def bits(self, reach: Reach, smoothed: bool = False) -> int:
        """The bits of this input; `smoothed` by channel factors, one tier less."""
        first = self.a4_below_shifted if reach.shifted else self.a4_below
        tier = (reach.range >= first) + (reach.range >= self.a6_below)
        if reach.p99 >= self.tail_from * reach.p50:
            tier = 2
        return TIERS[max(0, tier - smoothed)]


def reach_of(found: InputStatistics) -> Reach:
    """How far an input's values go: average extremes, around the shift where there is one, and quantiles."""
    shift = np.zeros(1) if found.shift is None else found.shift
    largest = float(found.absmax.max())
    return Reach(
        range=float(np.maximum(shift - found.avg_min, found.avg_max - shift).max()),
        p50=magnitude(found.counts, 0.5, largest),
        p99=magnitude(found.counts, 0.99, largest),
        shifted=found.shift is not None,
    )
