"""Frechet distance of two sets of features (Heusel et al. 2017, arXiv 1706.08500, equation 6)."""

import numpy as np

from ditq.evaluation.metrics.sets import Features, SetMetric


class Frechet(SetMetric):
    """Distance of the Gaussians with the sets' means and covariances; biased upwards, the more the fewer pictures."""

    name = "frechet"

    def few(self, count: int, dims: int) -> str | None:
        """Fewer pictures than dimensions leave a covariance without full rank."""
        if count > dims:
            return None
        return (
            f"{count} pictures do not determine a covariance of {dims} features: the distance is mostly bias"
        )

    def distance(self, reference: Features, candidate: Features) -> float:
        """|difference of means|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)).

        tr((S1 S2)^(1/2)) is the sum of the singular values of A B', where S1 = A'A and S2 = B'B: of A and B, the
        centred features or, where they are longer than wide, the triangles of their QR factorization.
        """
        (mean_a, a), (mean_b, b) = _factor(reference), _factor(candidate)
        shared = np.linalg.svd(a @ b.T, compute_uv=False).sum()
        return float(np.square(mean_a - mean_b).sum() + np.square(a).sum() + np.square(b).sum() - 2 * shared)


def _factor(features: Features) -> tuple[np.ndarray, np.ndarray]:
    mean = features.mean(0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred).R
    return mean, centred
