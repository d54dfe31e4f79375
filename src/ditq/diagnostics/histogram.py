"""Histograms of float32 values that are exact, mergeable and made in one pass, however wide the values range.

A value's sign, exponent and first seven mantissa bits (a bfloat16, cut off) are its slot. Every edge k / 32 up to 8
lies between two slots, so the 512 even bins on [-8, 8] are sums of slots; so are 16 bins per octave from 2^-16 to 2^16,
which keep the quantiles of activations of any size to 6 %. The slots are counted once for both.
"""

import sys
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float32, Float64, Int64

LIMIT, BINS = 8, 512
"""The even histogram: `BINS` bins on [-LIMIT, LIMIT), each closed below and open above."""
OCTAVES = 16
"""The wide histogram: from 2^-OCTAVES to 2^OCTAVES on both sides of zero."""
PER_OCTAVE = 16
_FINE = 128
"""Slots per octave: what seven mantissa bits tell apart."""
_SIDE = 2 * OCTAVES * _FINE
"""Slots on one side of zero, without the one that takes all smaller values."""
_LEAST = (127 - OCTAVES) * _FINE


@dataclass(frozen=True)
class Histograms:
    """Counts of the same values in two binnings; they add."""

    even: Int64[np.ndarray, "even_bins"]
    """`BINS` + 2 bins: below -LIMIT, the even bins, LIMIT and above."""
    wide: Int64[np.ndarray, "wide_bins"]
    """As `wide_edges()` bounds them; the outermost also take what lies beyond."""

    @staticmethod
    def empty() -> "Histograms":
        """No values yet."""
        return Histograms(np.zeros(BINS + 2, np.int64), np.zeros(len(wide_edges()) - 1, np.int64))

    def __add__(self, other: "Histograms") -> "Histograms":
        return Histograms(self.even + other.even, self.wide + other.wide)


def slot_counts(x: Float32[np.ndarray, "*shape"]) -> Int64[np.ndarray, "slots"]:
    """How many of these finite values lie in each slot: counts of parts add up."""
    return np.bincount(_slots(x).ravel(), minlength=2 * _SIDE + 2)


def histograms(counts: Int64[np.ndarray, "slots"]) -> Histograms:
    """The histograms of values whose `slot_counts` these are."""
    even = np.add.reduceat(counts, _even_starts())
    low, high = np.split(counts, 2)
    fine = _FINE // PER_OCTAVE
    wide = [low[:-1].reshape(-1, fine).sum(1), low[-1:], high[:1], high[1:].reshape(-1, fine).sum(1)]
    return Histograms(even, np.concatenate(wide))


@cache
def even_edges() -> Float64[np.ndarray, "edges"]:
    """The `BINS + 1` edges of the even bins."""
    return np.linspace(-LIMIT, LIMIT, BINS + 1)


@cache
def wide_edges() -> Float64[np.ndarray, "edges"]:
    """The edges of the wide bins; the two bins beside zero hold what is smaller than 2^-OCTAVES."""
    octaves = 2.0 ** np.arange(-OCTAVES, OCTAVES)
    side = (octaves[:, None] * (1 + np.arange(PER_OCTAVE) / PER_OCTAVE)).ravel()
    side = np.append(side, 2.0**OCTAVES)
    return np.concatenate([-side[::-1], [0.0], side])


def quantiles(
    wide: Int64[np.ndarray, "bins"], fractions: Float64[np.ndarray, "points"], low: float, high: float
) -> Float64[np.ndarray, "points"]:
    """The values below which these fractions of the counted values lie, between the extremes `low` and `high`.

    Within a bin the values are taken as evenly spread, so that a quantile errs by no more than its bin's width.
    """
    edges = np.clip(wide_edges(), low, high)
    edges[0], edges[-1] = low, high
    below = np.concatenate([[0], np.cumsum(wide)])
    filled = np.flatnonzero(wide)
    positions = fractions * below[-1]
    bins = filled[np.searchsorted(below[filled + 1], positions, side="left").clip(0, len(filled) - 1)]
    within = (positions - below[bins]) / wide[bins]
    return edges[bins] + within.clip(0, 1) * (edges[bins + 1] - edges[bins])


def _slots(x: Float32[np.ndarray, "*shape"]) -> np.ndarray:
    """Each value's slot, in the order of the values: 0 to 2 _SIDE + 1."""
    bits = (x + np.float32(0)).view(np.int32)  # adding zero makes -0.0 a plain 0
    sign = bits >> 31  # -1 for negative values
    slots = bits & 0x7FFFFFFF
    slots += sign  # a negative bin is closed on the side away from zero, where its lower edge is
    slots >>= 16
    np.clip(slots, _LEAST - 1, _LEAST + _SIDE - 1, out=slots)
    slots -= _LEAST - 1
    slots ^= sign
    slots += _SIDE + 1
    return slots


@cache
def _even_starts() -> Int64[np.ndarray, "bins"]:
    """The first slot of what lies below the even bins, of each of them, and of what lies above."""
    positive = np.linspace(0, LIMIT, BINS // 2 + 1, dtype=np.float32)[1:]
    offsets = (positive.view(np.int32) >> 16).astype(np.int64) - (_LEAST - 1)
    centre = _SIDE + 1
    return np.concatenate([[0], centre - offsets[::-1], [centre], centre + offsets])


def upper_halves(x: Float32[np.ndarray, "*shape"]) -> Int64[np.ndarray, "halves"]:
    """How many of these values have each of the 65,536 upper halves of a float32: the fastest exact count there is.

    Sign, exponent and seven mantissa bits lie there, as in a slot. `bits_histogram` makes a histogram of it.
    """
    halves = np.ascontiguousarray(x).reshape(-1).view(np.uint16)[1 if sys.byteorder == "little" else 0 :: 2]
    return np.bincount(halves, minlength=1 << 16)


def bits_histogram(counts: Int64[np.ndarray, "halves"]) -> Int64[np.ndarray, "bins"]:
    """The wide histogram of finite values whose `upper_halves` these are.

    A negative value that is itself an edge, and -0.0, count one bin further from zero than `histograms` counts them.
    """
    return np.bincount(_wide_bins(), counts).astype(np.int64)


@cache
def _wide_bins() -> Int64[np.ndarray, "halves"]:
    """The wide bin of each upper half, 0 for those of infinity and NaN, which are never counted."""
    halves = np.arange(1 << 16, dtype=np.uint32)
    inside = (halves << 16 | 1).view(np.float32)
    side = np.repeat(np.arange(_SIDE * PER_OCTAVE // _FINE), _FINE // PER_OCTAVE)
    centre = side[-1] + 1
    of_slot = np.concatenate([side, [centre, centre + 1], centre + 2 + side])
    return np.where(np.isfinite(inside), of_slot[_slots(np.where(np.isfinite(inside), inside, 0))], 0)
