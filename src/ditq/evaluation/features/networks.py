"""The network whose features sets of pictures are compared by: the classifier that comes with a model."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from ditq.core import plan
from ditq.evaluation.attributes import PictureJudge
from ditq.evaluation.features.base import Extracted
from ditq.evaluation.metrics import Picture


class OwnFeatures:
    """Features and class probabilities of the classifier that comes with a model. Knows that model's pictures alone.

    Its metrics are never called FID, KID, CMMD or Inception Score: these names belong to other networks.
    """

    name = "own"
    metrics: Mapping[str, str] = MappingProxyType({
        "frechet": "Frechet distance",
        "cubic_mmd": "cubic MMD",
        "gaussian_mmd": "Gaussian MMD",
        "precision": "precision",
        "recall": "recall",
        "class_score": "class score",
    })  # fmt: skip

    def __init__(self, judge: PictureJudge, model: str) -> None:
        self._judge = judge
        self.title = f"{model}'s classifier"
        self.fingerprint = plan.digest("own 1", judge.fingerprint)

    def __call__(self, pictures: Sequence[Picture]) -> Extracted:
        """Raises UserError for pictures of another size than the classifier reads."""
        seen = [self._judge.see(one[None]) for one in pictures]  # one by one: none depends on those beside it
        logits = np.concatenate([one.objects for one in seen])
        return Extracted(np.concatenate([one.features for one in seen]), softmax(logits))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities float32 of logits, row by row."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)
