"""The score of class probabilities (Salimans et al. 2016, arXiv 1606.03498), which of Inception's is its score."""

from typing import Literal

import numpy as np

from ditq.evaluation.metrics.base import Better
from ditq.evaluation.metrics.sets import Features, SetMetric

PARTS = 10
"""Into which the pictures are split, as Salimans et al. do; their scores are averaged."""


class ClassScore(SetMetric):
    """exp of the mean information that a picture gives of its class: between 1 and the number of classes.

    It looks at the candidate alone, and is the lower the fewer pictures there are.
    """

    name = "class_score"
    better: Better = "higher"
    reads: Literal["features", "probabilities"] = "probabilities"

    def few(self, count: int, dims: int) -> str | None:
        """The information of n pictures is at most log n."""
        part = count // PARTS
        if part >= dims:
            return None
        return (
            f"{count} pictures in {PARTS} parts score {part} at most, where {dims} classes could score {dims}"
        )

    def distance(self, reference: Features, candidate: Features) -> float:
        """The mean over the parts of the candidate's pictures."""
        return float(np.mean(scores(candidate)))


def scores(probabilities: Features, parts: int = PARTS) -> np.ndarray:
    """exp(E KL(p(class | picture) | p(class))) of each part; every n-th picture makes a part."""
    found = []
    for part in range(min(parts, len(probabilities))):
        p = probabilities[part::parts]
        ratio = np.divide(p, p.mean(0), out=np.ones_like(p), where=p > 0)  # what has no chance adds nothing
        information = (p * np.log(ratio)).sum(1)
        found.append(np.exp(information.mean()))
    return np.array(found)
