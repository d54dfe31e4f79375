"""Noise levels of rectified flow.

At noise level sigma a latent is x = (1 - sigma) data + sigma noise; the model predicts the velocity noise - data, and
sampling follows it from sigma = 1 to 0. Timesteps are 1000 sigma.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

Sigmas = Float64[np.ndarray, "points"]


def shifted(sigma: Sigmas, shift: float) -> Sigmas:
    """Noise levels moved towards 1 for larger pictures: shift s / (1 + (shift - 1) s); SD3, section 5.3.2."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def uniform_sigmas(steps: int, shift: float) -> Sigmas:
    """`steps + 1` levels from 1 to 0, evenly spaced before the shift."""
    return shifted(np.linspace(1.0, 0.0, steps + 1), shift)


def diffusionkit_sigmas(steps: int, shift: float) -> Sigmas:
    """DiffusionKit's grid, which is also that of Stability's reference code: `steps` levels from 1 down, then 0.

    Its smallest level before the 0 is 1/1000 with the shift applied twice (at shift 3: 0.00893, timestep 8.93).
    """
    least = shifted(np.array([1e-3]), shift)[0]
    return np.append(shifted(np.linspace(1.0, least, steps), shift), 0.0)


SCHEDULES: dict[str, Callable[[int, float], Sigmas]] = {
    "uniform": uniform_sigmas,
    "diffusionkit": diffusionkit_sigmas,
}


def log_snr(sigma: Sigmas, floor: float = 1e-3) -> Sigmas:
    """Log signal-to-noise ratio of each level, 2 ln((1 - sigma) / sigma), with sigma held in [floor, 1 - floor].

    The default floor is one of the 1000 training timesteps; without it the ends are infinite.
    """
    sigma = np.clip(sigma, floor, 1 - floor)
    return 2 * np.log((1 - sigma) / sigma)
