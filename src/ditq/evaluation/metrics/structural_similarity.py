"""Structural similarity (Wang et al. 2004, 'Image quality assessment')."""

import numpy as np

from ditq.evaluation.metrics.base import PairMetric, Picture, Samples


class SSIM(PairMetric):
    """Structural similarity of each picture, at most 1."""

    name, title = "ssim", "SSIM"

    def scores(self, reference: Samples, candidate: Samples) -> list[float]:
        """One value per picture of a batch."""
        return [ssim(one, two) for one, two in zip(reference.pictures, candidate.pictures, strict=True)]


def ssim(reference: Picture, picture: Picture, sigma: float = 1.5, radius: int = 5) -> float:
    """Mean structural similarity over channels and over all windows that lie inside the picture.

    Gaussian windows of 11 x 11 and deviation 1.5, constants (0.01 * 255)^2 and (0.03 * 255)^2: Wang et al. 2004,
    equation 13.
    """
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    taps /= taps.sum()
    x, y = reference.astype(np.float64), picture.astype(np.float64)
    mean_x, mean_y = _blurred(x, taps), _blurred(y, taps)
    variance_x, variance_y = _blurred(x * x, taps) - mean_x**2, _blurred(y * y, taps) - mean_y**2
    covariance = _blurred(x * y, taps) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def _blurred(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """x smoothed along both sides of the picture; windows that reach over the border are left out."""
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, len(taps), axis=axis) @ taps
    return x
