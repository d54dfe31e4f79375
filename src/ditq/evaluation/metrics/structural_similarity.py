"""Structural similarity (Wang et al. 2004, 'Image quality assessment'), by scikit-image."""

from typing import cast

from ditq.core.errors import UserError
from ditq.evaluation.metrics.base import PairMetric, Picture, Samples

WINDOW = 11
"""Side of the Gaussian window in pixels: radius 5 at deviation 1.5."""


class SSIM(PairMetric):
    """Structural similarity of each picture, at most 1."""

    name, title = "ssim", "SSIM"

    def scores(self, reference: Samples, candidate: Samples) -> list[float]:
        """One value per picture of a batch. Raises UserError for pictures smaller than the window."""
        return [ssim(one, two) for one, two in zip(reference.pictures, candidate.pictures, strict=True)]


def ssim(reference: Picture, picture: Picture) -> float:
    """Mean structural similarity over channels and over all windows that lie inside the picture.

    Gaussian windows of 11 x 11 and deviation 1.5, constants (0.01 * 255)^2 and (0.03 * 255)^2, the population's
    covariance: Wang et al. 2004, equation 13. Raises UserError for a picture smaller than the window.
    """
    height, width, _ = reference.shape
    if min(height, width) < WINDOW:
        raise UserError(
            "SSIM", got=f"a picture of {width} x {height}", expected=f"{WINDOW} x {WINDOW} pixels or more"
        )
    from skimage.metrics import structural_similarity  # takes a while: only where SSIM is asked for

    value = structural_similarity(
        reference,
        picture,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(cast(float, value))  # an array besides only where maps or gradients are asked for
