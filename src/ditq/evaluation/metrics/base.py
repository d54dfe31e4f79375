"""What a metric is: it sees batch after batch of pictures beside their references, then gives its values."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

Better = Literal["higher", "lower"]
Picture = UInt8[np.ndarray, "height width 3"]
Latents = Float32[np.ndarray, "rows columns channels"]
Values = Float[np.ndarray, "values"]


@dataclass(frozen=True)
class Samples:
    """Pictures that a model drew: one row per (prompt, seed), in the order of the prompts."""

    prompts: Sequence[str]
    pictures: UInt8[np.ndarray, "pictures height width 3"]
    latents: Float32[np.ndarray, "pictures rows columns channels"]
    """The denoised latents, as the decoder got them."""

    def __len__(self) -> int:
        return len(self.prompts)


@runtime_checkable
class Metric(Protocol):
    """A value for each pair of pictures, or one value for two sets of pictures (a distance of distributions).

    It is used for one variant after the other: `begin()`, `add` for every batch, `value()`. What it keeps of a batch
    should be small: a benchmark draws thousands of pictures, and they never lie in memory together.
    """

    @property
    def name(self) -> str:
        """The key in `METRICS` and in reports."""
        ...

    @property
    def title(self) -> str:
        """What tables and sentences call it."""
        ...

    @property
    def unit(self) -> str:
        """The unit of its values; empty for a bare number."""
        ...

    @property
    def better(self) -> Better:
        """Which values are good."""
        ...

    @property
    def capped(self) -> bool:
        """Whether identical pictures would score infinitely well, so that they are given a finite value instead."""
        ...

    def begin(self) -> None:
        """Forgets what was added before."""
        ...

    def add(self, reference: Samples, candidate: Samples) -> None:
        """Takes in a batch of pictures and their references, row by row of the same prompt."""
        ...

    def value(self) -> Values:
        """One value per picture that was added, or a single one for all of them."""
        ...


class PairMetric(ABC):
    """Base class of the metrics that compare each picture with its reference alone."""

    name: str
    title: str
    unit: str = ""
    better: Better = "higher"
    capped: bool = False

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forgets what was added before."""
        self._values: list[float] = []

    def add(self, reference: Samples, candidate: Samples) -> None:
        """Scores every picture of a batch."""
        self._values += self.scores(reference, candidate)

    def value(self) -> Values:
        """One value per picture that was added."""
        return np.array(self._values, np.float64)

    @abstractmethod
    def scores(self, reference: Samples, candidate: Samples) -> list[float]:
        """One value per picture of a batch."""
