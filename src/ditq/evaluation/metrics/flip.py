"""FLIP (Andersson et al. 2020, 'A Difference Evaluator for Alternating Images'), by its authors' flip-evaluator."""

import numpy as np

from ditq.core.errors import UserError
from ditq.evaluation.metrics.base import Better, PairMetric, Picture, Samples


class FLIP(PairMetric):
    """Mean FLIP error of each picture: 0 for identical pictures, at most 1.

    The viewing distance is the package's own: 67 pixels per degree, a 4K screen 0.7 m wide seen from 0.7 m.
    """

    name, title = "flip", "FLIP"
    better: Better = "lower"

    def __init__(self) -> None:
        """Raises UserError where flip-evaluator is not installed."""
        super().__init__()
        try:
            from flip_evaluator import evaluate  # part of an extra: only where FLIP is asked for
        except ImportError as error:
            raise UserError(
                "flip",
                got=f"{error}",
                expected="the package flip-evaluator",
                remedy="pip install 'ditq[eval]'",
            ) from error
        self._evaluate = evaluate

    def scores(self, reference: Samples, candidate: Samples) -> list[float]:
        """One value per picture of a batch."""
        return [
            self._error(one, two) for one, two in zip(reference.pictures, candidate.pictures, strict=True)
        ]

    def _error(self, reference: Picture, picture: Picture) -> float:
        one, two = (np.ascontiguousarray(each, np.float32) / 255 for each in (reference, picture))
        _, mean, _ = self._evaluate(one, two, "LDR", applyMagma=False)
        return float(mean)
