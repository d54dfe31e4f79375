"""How far pictures are from their references: one protocol, and the metrics that need nothing but the pairs."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8

Picture = UInt8[np.ndarray, "height width 3"]
Values = Float[np.ndarray, "values"]


@dataclass(frozen=True)
class Samples:
    """What a model drew: one row per (prompt, seed), in the order of the prompts."""

    prompts: list[str]
    pictures: UInt8[np.ndarray, "pictures height width 3"]
    latents: Float32[np.ndarray, "pictures rows columns channels"]
    """The denoised latents, as the decoder got them."""

    def __len__(self) -> int:
        return len(self.prompts)


@runtime_checkable
class Metric(Protocol):
    """A number for each pair of pictures, or one for the two sets (a distance of distributions, say)."""

    @property
    def name(self) -> str:
        """The key in reports."""
        ...

    @property
    def unit(self) -> str:
        """Of its values; empty for a bare number."""
        ...

    @property
    def better(self) -> Literal["higher", "lower"]:
        """Which values are good."""
        ...

    def __call__(self, reference: Samples, candidate: Samples) -> Values:
        """One value per picture, or a single one for the whole set."""
        ...


@dataclass(frozen=True)
class PSNR:
    """Peak signal-to-noise ratio of each picture, in dB."""

    name: str = "psnr"
    unit: str = "dB"
    better: Literal["higher", "lower"] = "higher"

    def __call__(self, reference: Samples, candidate: Samples) -> Values:
        """One value per picture."""
        return np.array(
            [psnr(one, two) for one, two in zip(reference.pictures, candidate.pictures, strict=True)]
        )


@dataclass(frozen=True)
class LatentError:
    """Relative error of each picture's final latents: the decoder's saturation hides nothing here."""

    name: str = "latent_error"
    unit: str = "%"
    better: Literal["higher", "lower"] = "lower"

    def __call__(self, reference: Samples, candidate: Samples) -> Values:
        """One value per picture."""
        pairs = zip(reference.latents, candidate.latents, strict=True)
        return np.array([100 * relative_error(one, two) for one, two in pairs])


@dataclass(frozen=True)
class SSIM:
    """Structural similarity of each picture (Wang et al. 2004), at most 1."""

    name: str = "ssim"
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"

    def __call__(self, reference: Samples, candidate: Samples) -> Values:
        """One value per picture."""
        return np.array(
            [ssim(one, two) for one, two in zip(reference.pictures, candidate.pictures, strict=True)]
        )


METRICS: tuple[Metric, ...] = (PSNR(), LatentError(), SSIM())
"""What every evaluation computes unless told otherwise."""


def psnr(reference: Picture, picture: Picture) -> float:
    """10 log10(255^2 / mean squared error), in dB.

    Equal pictures would be infinitely good. They get the value of a picture that differs by one level in one place,
    which no other picture exceeds, so that means and deviations stay finite.
    """
    difference = reference.astype(np.float64) - picture.astype(np.float64)
    error = max(float(np.square(difference).mean()), 1 / difference.size)
    return float(10 * np.log10(255**2 / error))


def relative_error(reference: Float[np.ndarray, "*shape"], value: Float[np.ndarray, "*shape"]) -> float:
    """|value - reference| / |reference|, Euclidean norms over all elements."""
    reference, value = reference.astype(np.float64), value.astype(np.float64)
    norm = float(np.linalg.norm(reference))
    return float(np.linalg.norm(value - reference)) / norm if norm else float(np.any(value))


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
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float((likeness / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean())


def _blurred(x: np.ndarray, taps: np.ndarray) -> np.ndarray:
    """x smoothed along both sides of the picture; only whole windows."""
    for axis in (0, 1):
        x = np.lib.stride_tricks.sliding_window_view(x, len(taps), axis=axis) @ taps
    return x
