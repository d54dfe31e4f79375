"""Noise, and the steps from it to a picture."""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32

from ditq.models.base import Prediction
from ditq.sampling.schedules import PROCESSES, NoiseProcess, Sigmas

Latents = Float[mx.array, "batch height width channels"]
Ahead = Callable[[Latents], Latents]
"""The network's prediction of latents at the next level of a run."""


def noise(seeds: Sequence[int], height: int, width: int, channels: int) -> Latents:
    """Standard normal latents, one picture per seed, equal on every device and in every batch: NumPy makes them."""

    def picture(seed: int) -> Float32[np.ndarray, "height width channels"]:
        return np.random.default_rng(seed).standard_normal((height, width, channels), dtype=np.float32)

    return mx.array(np.stack([picture(seed) for seed in seeds]))


@runtime_checkable
class Stepper(Protocol):
    """The steps of one run, which are taken in order."""

    def step(self, x: Latents, predicted: Latents, i: int, ahead: Ahead | None = None) -> Latents:
        """The latents at `sigmas[i + 1]` from those at `sigmas[i]` and what the network predicts of them; lazy.

        `ahead` asks the network about latents at `sigmas[i + 1]`, for samplers that look there; None at the last step.
        """
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

    def __init__(self, process: NoiseProcess, sigmas: Sigmas, prediction: Prediction):
        super().__init__(process, sigmas, prediction)
        self.straight = prediction == "velocity" and np.array_equal(self.alphas, 1 - sigmas)

    def step(self, x: Latents, predicted: Latents, i: int, ahead: Ahead | None = None) -> Latents:
        """The latents at the next level."""
        return self.moved(x, self.direction(x, predicted, i), i)

    def direction(self, x: Latents, predicted: Latents, i: int) -> Latents:
        """What a step goes along: the velocity of a straight path, or the noise."""
        return predicted if self.straight else self.noise(x, predicted, i)

    def moved(self, x: Latents, direction: Latents, i: int) -> Latents:
        """The latents at the next level if the direction stays what it is."""
        (alpha, sigma), (next_alpha, next_sigma) = self.level(i), self.level(i + 1)
        if self.straight:
            return x + (next_sigma - sigma) * direction
        ratio = next_alpha / alpha
        return ratio * x + (next_sigma - ratio * sigma) * direction


ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""The weights of the last directions, newest first, by how many there are: those of evenly spaced steps."""


class PNDM(Euler):
    """Pseudo linear multistep (Liu et al. 2022, arXiv 2202.09778, equation 12): along a mean of the last four noises.

    As Stable Diffusion 1 uses it (`skip_prk_steps=True` in diffusers): the first step is done twice, the second time
    along the mean of the noises at both of its ends, which takes one network call more than there are steps.
    """

    def __init__(self, process: NoiseProcess, sigmas: Sigmas, prediction: Prediction):
        super().__init__(process, sigmas, prediction)
        self._last: tuple[Latents, ...] = ()

    def step(self, x: Latents, predicted: Latents, i: int, ahead: Ahead | None = None) -> Latents:
        """The latents at the next level."""
        first = not self._last
        self._last = (self.direction(x, predicted, i), *self._last[:3])
        weights = ADAMS_BASHFORTH[len(self._last) - 1]
        following = self.moved(x, _weighted(weights, self._last), i)
        if first and ahead is not None:
            both = (self.direction(following, ahead(following), i + 1), self._last[0])
            following = self.moved(x, _weighted((0.5, 0.5), both), i)
        return following


def _weighted(weights: Sequence[float], directions: Sequence[Latents]) -> Latents:
    return reduce(add, (weight * one for weight, one in zip(weights, directions, strict=True)))


class DDIM(Conversions):
    """Deterministic DDIM (Song et al. 2021, arXiv 2010.02502, equation 12 with eta = 0)."""

    def step(self, x: Latents, predicted: Latents, i: int, ahead: Ahead | None = None) -> Latents:
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

    def step(self, x: Latents, predicted: Latents, i: int, ahead: Ahead | None = None) -> Latents:
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
    "pndm": PNDM,
}
"""The samplers by name: each makes the stepper of a run."""


def _ahead(denoise: Callable[[Latents, int], Latents], step: int) -> Ahead:
    return lambda x: denoise(x, step)


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
    last = len(sigmas) - 2
    for step in range(last + 1):
        predicted = denoise(x, step)
        following = steps.step(x, predicted, step, _ahead(denoise, step + 1) if step < last else None)
        mx.eval(following, predicted)
        if on_step is not None:
            on_step(step, x, predicted)
        x = following
    return x
