"""What one layer receives at one timestep, kept so that an activation grid can be chosen from it."""

from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from ditq.core.errors import DitqError
from ditq.diagnostics.channels import PerChannel, moving_shift
from ditq.diagnostics.histogram import bits_histogram, quantiles, upper_halves
from ditq.diagnostics.reservoir import Reservoir

LEAST_ROWS = 32
PERCENTILES = {"hist_p50": 0.5, "hist_p99": 0.99, "hist_p999": 0.999}
"""Of |x|, from the histogram."""


@dataclass
class InputStatistics:
    """Statistics over the pictures of one timestep; a picture's two guidance rows are one batch, pixels are tokens.

    Averages of each picture's extremes (TaQ-DiT's AvgMinMax) do not depend on how many pictures run at once.
    """

    images: int
    count: int
    """Values per channel."""
    avg_min: PerChannel
    avg_max: PerChannel
    abs_min: Float32[np.ndarray, "channels"]
    abs_max: Float32[np.ndarray, "channels"]
    shift: PerChannel | None
    """TaQ-DiT's moving average of the channels' midpoints over the pictures; None where it is not kept."""
    counts: Int64[np.ndarray, "bins"]
    """While observing: one count per upper half of a float32. After `finish`: of the wide histogram's bins."""
    sample: Reservoir
    """Whole rows, drawn at random: what a grid with any shift and any channel factors is judged on."""
    column_norms: PerChannel
    """The squared norm of the weights that each channel meets, over all layers that receive it: what an error costs."""

    @staticmethod
    def empty(column_norms: PerChannel, shifted: bool, rows: int) -> "InputStatistics":
        """Empty statistics; `shifted` keeps the moving shift, `rows` is the size of the sample."""
        channels = len(column_norms)
        zeros, infinite = np.zeros(channels), np.full(channels, np.inf, np.float32)
        shift = zeros.copy() if shifted else None
        sample = Reservoir.empty(rows, channels)
        counts = upper_halves(np.zeros(0, np.float32))
        extremes = zeros, zeros.copy(), infinite, -infinite
        return InputStatistics(0, 0, *extremes, shift, counts, sample, column_norms)

    def observe(
        self,
        x: Float32[np.ndarray, "guidance images tokens channels"],
        priorities: Float64[np.ndarray, "guidance images tokens"],
    ) -> None:
        """Adds what the layer received for some pictures. Raises DitqError for values that are not finite."""
        least, greatest = x.min(axis=(0, 2)), x.max(axis=(0, 2))
        if not (np.isfinite(least).all() and np.isfinite(greatest).all()):
            raise DitqError(
                f"{x.size - int(np.isfinite(x).sum()):,} of {x.size:,} activations are not finite"
            )
        for low, high in zip(least, greatest, strict=True):
            self._one_picture(low, high)
        self.count += x.shape[0] * x.shape[1] * x.shape[2]
        self.counts += upper_halves(x)
        self.sample.offer(priorities.ravel(), x.reshape(-1, x.shape[-1]))

    def _one_picture(
        self, low: Float32[np.ndarray, "channels"], high: Float32[np.ndarray, "channels"]
    ) -> None:
        if self.shift is not None:
            self.shift = moving_shift(
                self.shift if self.images else None, low.astype(np.float64), high.astype(np.float64)
            )
        # Sums while observing: `finish` divides.
        self.avg_min += low
        self.avg_max += high
        np.minimum(self.abs_min, low, out=self.abs_min)
        np.maximum(self.abs_max, high, out=self.abs_max)
        self.images += 1

    def finish(self) -> None:
        """Ends the observation: sums become averages, the counts those of the wide histogram, the sample float16."""
        self.avg_min /= self.images
        self.avg_max /= self.images
        self.counts = bits_histogram(self.counts)
        self.sample.pack()

    def add(self, other: "InputStatistics") -> None:
        """Adds finished statistics of other pictures at the same timestep.

        Counts, extremes, the histogram and the sample become those of one run over all pictures, averages up to the
        last bit. The moving shift depends on the order of the pictures: it becomes the mean by number of pictures.
        """
        images = self.images + other.images
        mine, theirs = self.images / images, other.images / images
        self.avg_min = mine * self.avg_min + theirs * other.avg_min
        self.avg_max = mine * self.avg_max + theirs * other.avg_max
        if self.shift is not None and other.shift is not None:
            self.shift = mine * self.shift + theirs * other.shift
        self.abs_min, self.abs_max = (
            np.minimum(self.abs_min, other.abs_min),
            np.maximum(self.abs_max, other.abs_max),
        )
        self.counts = self.counts + other.counts
        self.sample.add(other.sample)
        self.images, self.count = images, self.count + other.count

    @property
    def absmax(self) -> Float32[np.ndarray, "channels"]:
        """The greatest |x| of each channel."""
        return np.maximum(-self.abs_min, self.abs_max)

    def summary(self) -> dict[str, float | int]:
        """The scalars of the index file."""
        least, greatest = float(self.abs_min.min()), float(self.abs_max.max())
        largest = max(-least, greatest)
        found: dict[str, float | int] = {
            "images": self.images,
            "count": self.count,
            "channels": len(self.abs_min),
            "tensor_min": least,
            "tensor_max": greatest,
            "tensor_absmax": largest,
            "avg_absmax": float(max(-self.avg_min.min(), self.avg_max.max())),
            **{name: magnitude(self.counts, at, largest) for name, at in PERCENTILES.items()},
        }
        if self.shift is not None:
            found["shifted_absmax"] = float(self.shifted_absmax.max())
        channels = self.absmax
        found["median_channel_absmax"] = float(np.median(channels))
        found["outlier_channels"] = int((channels > 2.5 * np.median(channels)).sum())
        return found

    @property
    def shifted_absmax(self) -> PerChannel:
        """The greatest |x - shift| of each channel."""
        shift = cast(np.ndarray, self.shift)
        return np.maximum(shift - self.abs_min, self.abs_max - shift)


def sample_rows(values: int, channels: int) -> int:
    """How many rows make `values` values, 32 at least."""
    return max(LEAST_ROWS, -(-values // channels))


def magnitude(counts: Int64[np.ndarray, "bins"], fraction: float, largest: float) -> float:
    """The value below which this fraction of all |x| lies, from the wide histogram of x."""
    half = len(counts) // 2
    folded = np.concatenate([np.zeros(half, np.int64), counts[half:] + counts[:half][::-1]])
    return float(quantiles(folded, np.array([fraction]), 0.0, float(largest))[0])


def priorities(key: str, guidance: int, tokens: int) -> Float[np.ndarray, "guidance tokens"]:
    """The random priorities of one picture's rows at one step: they depend on `key` alone."""
    return np.random.default_rng(int(key, 16)).random((guidance, tokens))
