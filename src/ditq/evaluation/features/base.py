"""What a network of features is: it reads a few pictures, and gives a row of numbers for each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from ditq.evaluation.metrics import Picture


@dataclass(frozen=True)
class Extracted:
    """What a network makes of pictures, a row for each."""

    features: Float32[np.ndarray, "pictures dims"]
    probabilities: Float32[np.ndarray, "pictures classes"]
    """Of its classes; no columns for a network that has none."""

    def __len__(self) -> int:
        return len(self.features)


@runtime_checkable
class FeatureNetwork(Protocol):
    """A network that describes pictures."""

    name: str
    """That of the folder which keeps its features."""
    title: str
    """What tables and sentences call it."""
    fingerprint: str
    """Changes when the features do: stored ones are used again only under the same."""
    metrics: Mapping[str, str]
    """Those of `SET_METRICS` that its features serve, with the name that each has on them."""

    def __call__(self, pictures: Sequence[Picture]) -> Extracted:
        """The features of some pictures, which may differ in size."""
        ...
