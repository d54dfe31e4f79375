"""Noise levels, noise, and the Euler sampler of rectified flow.

At noise level sigma a latent is x = (1 - sigma) data + sigma noise; the model predicts the velocity noise - data, and
sampling follows it from sigma = 1 to 0. Timesteps are 1000 sigma.
"""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Float64

Latents = Float[mx.array, "batch height width channels"]
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


def noise(seeds: Sequence[int], height: int, width: int, channels: int) -> Latents:
    """Standard normal latents, one picture per seed, equal on every device and in every batch: NumPy makes them."""

    def picture(seed: int) -> Float32[np.ndarray, "height width channels"]:
        return np.random.default_rng(seed).standard_normal((height, width, channels), dtype=np.float32)

    return mx.array(np.stack([picture(seed) for seed in seeds]))


def euler(
    denoise: Callable[[Latents, int], Latents],
    x: Latents,
    sigmas: Sigmas,
    on_step: Callable[[int, Latents, Latents], None] | None = None,
) -> Latents:
    """The latents at `sigmas[-1]`, from `x` at `sigmas[0]`, by Euler steps along the velocity.

    `denoise(x, step)` gives the velocity at `sigmas[step]`; `on_step(step, x, velocity)` sees the x that the model
    saw, after the step was computed. Each step is evaluated before the next begins.
    """
    for step in range(len(sigmas) - 1):
        velocity = denoise(x, step)
        following = x + float(sigmas[step + 1] - sigmas[step]) * velocity
        mx.eval(following, velocity)
        if on_step is not None:
            on_step(step, x, velocity)
        x = following
    return x
