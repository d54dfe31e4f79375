"""Relative error of the final latents."""

import numpy as np
from jaxtyping import Float

from ditq.evaluation.metrics.base import Better, PairMetric, Samples


class LatentError(PairMetric):
    """Relative error of each picture's final latents, in %; unlike pixels, latents are not clipped by the decoder."""

    name, title, unit = "latent_error", "latent error", "%"
    better: Better = "lower"

    def scores(self, reference: Samples, candidate: Samples) -> list[float]:
        """One value per picture of a batch."""
        pairs = zip(reference.latents, candidate.latents, strict=True)
        return [100 * relative_error(one, two) for one, two in pairs]


def relative_error(reference: Float[np.ndarray, "*shape"], value: Float[np.ndarray, "*shape"]) -> float:
    """|value - reference| / |reference|, Euclidean norms over all elements."""
    reference, value = reference.astype(np.float64), value.astype(np.float64)
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(value - reference)) / norm if norm else float(np.any(value))
