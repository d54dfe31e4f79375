"""What a metric of two whole sets is: features of each, one value, its interval and its noise floor."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.evaluation.metrics.base import Better, Values

Features = Float[np.ndarray, "_ _"]
"""A row per picture; sets may differ in their number of rows."""
GROUPS, T = 10, 2.101
"""Groups that are left out in turn of each set, and Student's t of 95 % at 2 * 10 - 2 degrees of freedom."""
SPLITS = 40
"""Random divisions that make the noise floor."""
FEWEST = 2 * GROUPS
"""Pictures in a set, at least."""


@dataclass(frozen=True)
class Sampled:
    """A metric's value for two sets, and for what is left of either without each of its groups in turn."""

    value: float
    without_reference: Values
    without_candidate: Values
    pictures: int
    """Of the candidate."""


@dataclass(frozen=True)
class SetResult:
    """How far a candidate's set is from a reference's, and how much farther than the baseline's."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval for the value expected at this number of pictures."""
    change: float
    """The value minus the baseline's."""
    change_low: float
    change_high: float
    """Ends of its 95 % interval, pictures of the same row compared: much narrower than the value's."""

    @classmethod
    def of(cls, own: Sampled, baseline: Sampled) -> "SetResult":
        """The candidate's value beside the baseline's, both from the same reference.

        `baseline` are the float model's pictures of the candidate's prompts and seeds, row by row, so that what both
        share leaves the change. Raises UserError for another number of them.
        """
        if own.pictures != baseline.pictures:
            got = f"{own.pictures} pictures beside {baseline.pictures} of the float model"
            raise UserError("sets of pictures", got=got, expected="as many, of the same prompts and seeds")
        change = own.value - baseline.value
        error = T * sqrt(_jackknife(own.without_reference) + _jackknife(own.without_candidate))
        spread = T * sqrt(
            _jackknife(own.without_reference - baseline.without_reference)
            + _jackknife(own.without_candidate - baseline.without_candidate)
        )
        return cls(own.value, own.value - error, own.value + error, change, change - spread, change + spread)

    @property
    def told_apart(self) -> bool:
        """Whether candidate and baseline differ by more than chance at this number of pictures."""
        return self.change_low > 0 or self.change_high < 0


@dataclass(frozen=True)
class Floor:
    """What the metric says of two sets that one model drew."""

    median: float
    worst: float
    """What 95 % of such values stay within."""
    pictures: int
    """In each of the two sets."""


class SetMetric(ABC):
    """Base class: `distance` is the mathematics, `sampled` adds what intervals take, `floor` what chance makes."""

    name: str
    better: Better = "lower"
    reads: Literal["features", "probabilities"] = "features"

    @abstractmethod
    def distance(self, reference: Features, candidate: Features) -> float:
        """The value for two sets of features."""

    def few(self, count: int, dims: int) -> str | None:
        """Why the value says little at this number of pictures, or None."""
        return None

    def sampled(self, reference: Features, candidate: Features) -> Sampled:
        """The value, and what its intervals are made from.

        Raises UserError for fewer than 20 pictures, features of different lengths, or features that are not finite.
        """
        a, b = (_checked(one, reference.shape[1]) for one in (reference, candidate))
        return Sampled(
            self.distance(a, b),
            np.array([self.distance(part, b) for part in _without(a)]),
            np.array([self.distance(a, part) for part in _without(b)]),
            len(b),
        )

    def floor(self, own: Features, other: Features) -> Floor:
        """Of two sets of the float model's pictures, from different seeds: both together halved at random.

        Raises UserError as `sampled` does.
        """
        pool = np.concatenate([_checked(one, own.shape[1]) for one in (own, other)])
        rng, half = np.random.default_rng(0), len(pool) // 2
        orders = [rng.permutation(len(pool)) for _ in range(SPLITS)]
        values = [self.distance(pool[order[:half]], pool[order[half:]]) for order in orders]
        worst = float(np.quantile(values, 0.95 if self.better == "lower" else 0.05))
        return Floor(float(np.median(values)), worst, half)


def _checked(features: Features, dims: int) -> Features:
    if len(features) < FEWEST or features.shape[1] != dims or not np.isfinite(features).all():
        got = f"a set of {len(features)} pictures with {features.shape[1]} features each"
        raise UserError(
            "a set of pictures", got=got, expected=f"{FEWEST} or more, {dims} finite features each"
        )
    return features.astype(np.float64)


def _without(features: Features) -> list[Features]:
    """The set without each of its groups in turn; every tenth picture makes a group."""
    return [features[np.arange(len(features)) % GROUPS != group] for group in range(GROUPS)]


def _jackknife(values: Values) -> float:
    """Variance of a statistic from its values without each group (Efron and Stein 1981)."""
    return (GROUPS - 1) / GROUPS * float(np.square(values - values.mean()).sum())
