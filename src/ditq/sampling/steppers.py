"""Noise, and the steps from it to a picture."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.models.base import Prediction
from ditq.sampling.schedules import PROCESSES, NoiseProcess, Sigmas

Latents = Float[mx.array, "batch height width channels"]


def noise(seeds: Sequence[int], height: int, width: int, channels: int) -> Latents:
    """Standard normal latents, one picture per seed, equal on every device and in every batch: NumPy makes them."""

    def picture(seed: int) -> Float32[np.ndarray, "height width channels"]:
        return np.random.default_rng(seed).standard_normal((height, width, channels), dtype=np.float32)

    return mx.array(np.stack([picture(seed) for seed in seeds]))


@runtime_checkable
class Stepper(Protocol):
    """The steps of one run, which are taken in order."""

    def step(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """The latents at `sigmas[i + 1]` from those at `sigmas[i]` and what the network predicts of them; lazy."""
        ...


class Conversions:
    """What a prediction says of data and noise at each level of a run: x = alpha data + sigma noise."""

    def __init__(self, process: NoiseProcess, sigmas: Sigmas, prediction: Prediction):
        self.sigmas, self.alphas, self.prediction = sigmas, process.alphas(sigmas), prediction

    def level(self, i: int) -> tuple[float, float]:
        """alpha and sigma."""
        return float(self.alphas[i]), float(self.sigmas[i])

    def data(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """The predicted data."""
        alpha, sigma = self.level(i)
        return (x - sigma * predicted) / (alpha + sigma if self.prediction == "velocity" else alpha)

    def noise(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """The predicted noise."""
        if self.prediction == "epsilon":
            return predicted
        alpha, sigma = self.level(i)
        return (x + alpha * predicted) / (alpha + sigma)


class Euler(Conversions):
    """Euler's method: along the velocity of rectified flow; otherwise x / alpha along the noise, over sigma / alpha."""

    def step(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """The latents at the next level."""
        if self.prediction == "velocity" and np.array_equal(self.alphas, 1 - self.sigmas):
            return x + float(self.sigmas[i + 1] - self.sigmas[i]) * predicted
        (alpha, sigma), (next_alpha, next_sigma) = self.level(i), self.level(i + 1)
        ratio = next_alpha / alpha
        return ratio * x + (next_sigma - ratio * sigma) * self.noise(x, predicted, i)


class DDIM(Conversions):
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502, equation 12 with eta = 0)."""

    def step(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """The predicted data and the predicted noise, mixed at the next level."""
        alpha, sigma = self.level(i + 1)
        return alpha * self.data(x, predicted, i) + sigma * self.noise(x, predicted, i)


class DPMSolver2M(Conversions):
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, algorithm 2): second order, one network call a step.

    With lambda = ln(alpha / sigma) and h its growth in a step, x' = sigma' / sigma x - alpha' (e^-h - 1) D, where D
    extrapolates the predicted data from the last two levels. The first step is of first order, and so is the last one
    in runs of under 15 steps or to sigma = 0, as in diffusers (`lower_order_final`).
    """

    def __init__(self, process: NoiseProcess, sigmas: Sigmas, prediction: Prediction):
        super().__init__(process, sigmas, prediction)
        with np.errstate(divide="ignore"):
            self.growths = np.diff(np.log(self.alphas) - np.log(self.sigmas))
        self._before: Latents | None = None

    def step(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """The latents at the next level."""
        steps, growth = len(self.growths), float(self.growths[i])
        data = extrapolated = self.data(x, predicted, i)
        lower = i == steps - 1 and (steps < 15 or self.sigmas[-1] == 0)
        if self._before is not None and not lower:
            half = growth / (2 * float(self.growths[i - 1]))
            extrapolated = (1 + half) * data - half * self._before
        self._before = data
        (_, sigma), (next_alpha, next_sigma) = self.level(i), self.level(i + 1)
        return (next_sigma / sigma) * x - float(next_alpha * np.expm1(-growth)) * extrapolated


STEPPERS: dict[str, Callable[[NoiseProcess, Sigmas, Prediction], Stepper]] = {
    "euler": Euler,
    "ddim": DDIM,
    "dpm++2m": DPMSolver2M,
}
"""The samplers by name: each makes the stepper of a run."""


def sample(
    denoise: Callable[[Latents, int], Latents],
    x: Latents,
    sigmas: Sigmas,
    stepper: str = "euler",
    process: NoiseProcess = PROCESSES["rectified-flow"],
    on_step: Callable[[int, Latents, Latents], None] | None = None,
    prediction: Prediction | None = None,
) -> Latents:
    """The latents at `sigmas[-1]`, from `x` at `sigmas[0]`, in the steps of `STEPPERS[stepper]`.

    `denoise(x, step)` gives the prediction at `sigmas[step]`: velocity or epsilon as `prediction` says; None is what
    the process usually has. `on_step(step, x, predicted)` sees the x that the model saw, after the step was computed.
    Each step is evaluated before the next begins.
    """
    steps = STEPPERS[stepper](process, sigmas, prediction or process.prediction)
    for step in range(len(sigmas) - 1):
        predicted = denoise(x, step)
        following = steps.step(x, predicted, step)
        mx.eval(following, predicted)
        if on_step is not None:
            on_step(step, x, predicted)
        x = following
    return x
