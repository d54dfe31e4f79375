"""Unbiased squared maximum mean discrepancies (Gretton et al. 2012, equation 3) with the kernels of KID and CMMD."""

from abc import abstractmethod

import numpy as np

from ditq.evaluation.metrics.sets import Features, SetMetric


class KernelDistance(SetMetric):
    """Unbiased MMD^2, which may be negative where the sets are alike."""

    scale = 1.0

    @abstractmethod
    def kernel(self, x: Features, y: Features) -> np.ndarray:
        """Its value for every pair."""

    def distance(self, reference: Features, candidate: Features) -> float:
        """Mean over the pairs within each set, no picture with itself, minus twice the mean between them."""
        within = 0.0
        for one in (reference, candidate):
            gram, count = self.kernel(one, one), len(one)
            within += (gram.sum() - np.trace(gram)) / (count * (count - 1))
        return self.scale * float(within - 2 * self.kernel(reference, candidate).mean())


class Cubic(KernelDistance):
    """(x.y / dims + 1)^3 (Binkowski et al. 2018, arXiv 1801.01401)."""

    name = "cubic_mmd"

    def kernel(self, x: Features, y: Features) -> np.ndarray:
        """Its value for every pair."""
        base = x @ y.T / x.shape[1] + 1
        return base * base * base  # NumPy takes 20 times as long for base**3


class Gaussian(KernelDistance):
    """exp(-|x - y|^2 / (2 * 10^2)), times 1000, of features of length 1 (Jayasumana et al. 2024, arXiv 2401.09603)."""

    name, scale = "gaussian_mmd", 1000.0

    def distance(self, reference: Features, candidate: Features) -> float:
        """Of the features divided by their lengths."""
        return super().distance(_unit(reference), _unit(candidate))

    def kernel(self, x: Features, y: Features) -> np.ndarray:
        """Its value for every pair."""
        squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * x @ y.T
        return np.exp(-squares / (2 * 10.0**2))


def _unit(x: Features) -> Features:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny)
