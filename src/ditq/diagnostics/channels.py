"""Running statistics of a layer's input, channel by channel; those of two parts add up to those of the whole."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32, Float64

from ditq.core.errors import DitqError
from ditq.diagnostics.histogram import Histograms, histograms, slot_counts

CACHED = 65536
"""Values that are worked on at once: they stay in a processor's cache, which makes it three times as fast."""

PerChannel = Float64[np.ndarray, "channels"]


@dataclass
class ChannelStatistics:
    """Count, sums and extremes of every channel in float64, and histograms of all of them together.

    Sums, counts and extremes, and not means, since those of two parts add up to those of the whole: exactly for counts
    and extremes, and for sums wherever float64 holds them exactly.
    """

    count: int
    """Values per channel."""
    total: PerChannel
    squares: PerChannel
    minimum: PerChannel
    maximum: PerChannel
    histograms: Histograms = field(default_factory=Histograms.empty)

    @staticmethod
    def empty(channels: int) -> "ChannelStatistics":
        """The statistics of no values."""
        infinite = np.full(channels, np.inf)
        return ChannelStatistics(0, np.zeros(channels), np.zeros(channels), infinite, -infinite)

    @staticmethod
    def of(x: Float32[np.ndarray, "tokens channels"]) -> "ChannelStatistics":
        """The statistics of these values. Raises DitqError for values that are not finite."""
        minimum, maximum = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
        if not (np.isfinite(minimum).all() and np.isfinite(maximum).all()):
            wrong = x.size - int(np.isfinite(x).sum())
            raise DitqError(f"{wrong:,} of {x.size:,} activations are not finite")
        total, squares, slots = np.zeros(x.shape[1]), np.zeros(x.shape[1]), slot_counts(x[:0])
        rows = max(1, CACHED // x.shape[1])
        for start in range(0, len(x), rows):
            part = x[start : start + rows]
            values = part.astype(np.float64)
            total += values.sum(axis=0)
            np.multiply(values, values, out=values)
            squares += values.sum(axis=0)
            slots += slot_counts(part)
        return ChannelStatistics(len(x), total, squares, minimum, maximum, histograms(slots))

    def add(self, other: "ChannelStatistics") -> None:
        """Adds the values of `other`."""
        self.count += other.count
        self.total = self.total + other.total
        self.squares = self.squares + other.squares
        self.minimum = np.minimum(self.minimum, other.minimum)
        self.maximum = np.maximum(self.maximum, other.maximum)
        self.histograms = self.histograms + other.histograms

    @property
    def channels(self) -> int:
        """How many channels there are."""
        return len(self.total)

    @property
    def mean(self) -> PerChannel:
        """The mean of every channel."""
        return self.total / self.count

    @property
    def std(self) -> PerChannel:
        """The standard deviation of every channel (of the values themselves: divided by the count)."""
        variance = np.maximum(self.squares / self.count - self.mean**2, 0)
        return np.where(self.minimum == self.maximum, 0.0, np.sqrt(variance))

    @property
    def negative_fraction(self) -> float:
        """The fraction of all values that are below zero."""
        even = self.histograms.even
        return float(even[: len(even) // 2].sum() / even.sum())


def merged(parts: list[ChannelStatistics]) -> ChannelStatistics:
    """The statistics of all the parts' values together; the parts stay as they are."""
    whole = ChannelStatistics.empty(parts[0].channels)
    for part in parts:
        whole.add(part)
    return whole


def moving_shift(
    shift: PerChannel | None, minimum: PerChannel, maximum: PerChannel, momentum: float = 0.95
) -> PerChannel:
    """TaQ-DiT's momentum-based shift of every channel after one more batch with these extremes.

    The first batch gives its midpoint (min + max) / 2, each next one momentum * shift + (1 - momentum) * midpoint
    (arXiv 2411.14172). Unlike everything else here it depends on the order of the batches, and does not merge.
    """
    midpoint = (minimum + maximum) / 2
    return midpoint if shift is None else momentum * shift + (1 - momentum) * midpoint
