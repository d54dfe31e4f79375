"""Noise, and the steps from it to a picture."""

from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.sampling.schedules import Sigmas

Latents = Float[mx.array, "batch height width channels"]


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
