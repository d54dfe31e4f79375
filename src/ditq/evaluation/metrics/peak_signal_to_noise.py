"""Peak signal-to-noise ratio."""

import numpy as np

from ditq.evaluation.metrics.base import PairMetric, Picture, Samples


class PSNR(PairMetric):
    """Peak signal-to-noise ratio of each picture, in dB."""

    name, title, unit = "psnr", "PSNR", "dB"
    capped = True

    def scores(self, reference: Samples, candidate: Samples) -> list[float]:
        """One value per picture of a batch."""
        return [psnr(one, two) for one, two in zip(reference.pictures, candidate.pictures, strict=True)]


def psnr(reference: Picture, picture: Picture) -> float:
    """10 log10(255^2 / mean squared error), in dB.

    The PSNR of identical pictures is infinite. They get the next float above the value of a picture that differs by
    one level in one place, so that means and deviations stay finite and no other picture reaches them.
    """
    difference = reference.astype(np.float64) - picture.astype(np.float64)
    error = float(np.square(difference).mean())
    value = float(10 * np.log10(255**2 / (error or 1 / difference.size)))
    return value if error else float(np.nextafter(value, np.inf))
