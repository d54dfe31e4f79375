"""What a metric of two whole sets is: features of each, one value, its interval and its noise floor."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.evaluation.metrics.base import Better

Features = Float[np.ndarray, "_ _"]
"""A row per picture; sets differ in their number, and `compare` says when they differ in length."""
GROUPS, T = 10, 2.101
"""Groups that are left out in turn of each set, and Student's t of 95 % at 2 * 10 - 2 degrees of freedom."""
SPLITS = 40
"""Random divisions that make the noise floor."""
FEWEST = 2 * GROUPS


@dataclass(frozen=True)
class SetResult:
    """How far the candidate's set is from the reference's, and what that says."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval for the value expected at this number of pictures."""
    floor: float
    """Median value between two sets of the float model's own pictures."""
    floor_worst: float
    """What 95 % of such values stay within: a candidate beyond it is told from the float model."""
    floor_pictures: int
    """Pictures in each set of the floor, at most."""
    pictures: tuple[int, int]
    """Of the reference and of the candidate."""
    warnings: tuple[str, ...]


class SetMetric(ABC):
    """Base class: `distance` is the mathematics, `compare` adds interval, floor and warnings."""

    name: str
    title: str
    better: Better = "lower"

    @abstractmethod
    def distance(self, reference: Features, candidate: Features) -> float:
        """The value for two sets of features."""

    def few(self, count: int, dims: int) -> str | None:
        """Why the value says little at this number of pictures, or None."""
        return None

    def compare(self, reference: Features, candidate: Features, other: Features | None = None) -> SetResult:
        """The value with interval and floor.

        `other` are the float model's pictures from other seeds; the floor then compares sets of full size. Without it
        the reference is halved, and a value that depends on the number of pictures has a floor of half as many.
        Raises UserError for fewer than 20 pictures, features of different lengths, or features that are not finite.
        """
        sets = [one.astype(np.float64) for one in (reference, candidate, other) if one is not None]
        for one in sets:
            if len(one) < FEWEST or one.shape[1] != sets[0].shape[1] or not np.isfinite(one).all():
                raise UserError(
                    self.title,
                    got=f"a set of {len(one)} pictures with {one.shape[1]} features each",
                    expected=f"{FEWEST} or more, {sets[0].shape[1]} finite features each",
                )
        a, b = sets[:2]
        value = self.distance(a, b)
        error = np.sqrt(
            _jackknife([self.distance(part, b) for part in _without(a)])
            + _jackknife([self.distance(a, part) for part in _without(b)])
        )
        floors, size = self._floors(np.concatenate([a, *sets[2:]]))
        worst = float(np.quantile(floors, 0.95 if self.better == "lower" else 0.05))
        inside = value <= worst if self.better == "lower" else value >= worst
        warnings = [self.few(min(len(a), len(b)), a.shape[1])]
        if inside:
            warnings.append(f"{self.title} does not tell these {len(b)} pictures from the float model's own")
        if size < min(len(a), len(b)):
            warnings.append(
                f"the floor has {size} pictures a set: {self.title} may be worse there for that alone"
            )
        return SetResult(
            value, value - T * error, value + T * error, float(np.median(floors)), worst, size,
            (len(a), len(b)), tuple(one for one in warnings if one),
        )  # fmt: skip

    def _floors(self, pool: Features) -> tuple[list[float], int]:
        rng, half = np.random.default_rng(0), len(pool) // 2
        orders = [rng.permutation(len(pool)) for _ in range(SPLITS)]
        return [self.distance(pool[order[:half]], pool[order[half:]]) for order in orders], len(pool) - half


def _without(features: Features) -> list[Features]:
    """The set without each of its groups in turn; every tenth picture makes a group."""
    return [features[np.arange(len(features)) % GROUPS != group] for group in range(GROUPS)]


def _jackknife(values: list[float]) -> float:
    """Variance of a statistic from its values without each group (Efron and Stein 1981)."""
    return (GROUPS - 1) / GROUPS * float(np.square(np.array(values) - np.mean(values)).sum())
