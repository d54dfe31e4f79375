"""The grid of a layer's input at one timestep: step size and shift of least output error, or the full range.

The error of a grid is what it does to the layer's output, E ||W (Q(x) - x)||^2, with the channels' errors taken as
uncorrelated: sum_j ||W_j||^2 E (Q(x_j) - x_j)^2. It is measured on the stored sample of rows, to which every channel's
least and greatest value of the whole calibration are added with the weight of one value each, so that the rare values
that a sample misses are neither forgotten nor overrated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Float64

from ditq.activations.decision import Kind
from ditq.core import affine
from ditq.core.activation_grid import FARTHEST, GridRows
from ditq.core.cost import Cost
from ditq.core.spec import Spec
from ditq.diagnostics import InputStatistics

Range = Literal["mse", "max"]
BINS = 8192
"""Of the tally that candidates are judged on: 32 per step of an 8-bit grid over the full range."""
LEAST_RATIO = 0.02
"""The narrowest candidate clips at this part of the full range."""
NORM = 2.4
"""Candidates are judged by E |error|^norm, as TaQ-DiT does. Rounding errors average out over channels and steps while
clipping shifts the output always to the same side: an exponent above 2 clips less (docs/methods.md has the figures)."""

CANDIDATES: dict[Kind, int] = {"none": 45, "tensor": 103, "channels": 103, "dual-scale": 7 * 45}
"""Grids that are tried for each kind of shift, as `symmetric`, `asymmetric` and `two_halves` do."""
PER_CANDIDATE = 40
"""Element-wise operations for each bin of a candidate; most of them are its power."""
LARGEST, FREED = 32, 20
"""Candidates at once, and arrays of their size that MLX holds, or keeps for later ones."""
ON_GRID, TALLIED = 10, 12
"""Operations for each value of the sample: for the error of the grid that is found, and for its place in the tally."""


@dataclass(frozen=True)
class Inputs:
    """Rows of a layer's input at one timestep, each with its weight, and what an error in each channel costs."""

    rows: Float32[np.ndarray, "rows channels"]
    weights: Float64[np.ndarray, "rows"]
    """They add up to 1 or a little more."""
    importance: Float64[np.ndarray, "*rows channels"]
    """One for all rows, or one for each."""
    shift: Float64[np.ndarray, "channels"] | None = None
    """The moving midpoints, where they are kept."""

    @staticmethod
    def of(found: InputStatistics, importance: Float64[np.ndarray, "channels"] | None = None) -> "Inputs":
        """The sample and the extremes of these statistics; without an `importance`, errors count in the output."""
        sample = found.sample.rows.astype(np.float32)
        weights = np.full(len(sample), 1 / len(sample))
        if found.count > len(sample):  # otherwise the sample is all there is
            sample = np.concatenate([sample, found.abs_min[None], found.abs_max[None]])
            weights = np.append(weights, [1 / found.count] * 2)
        return Inputs(sample, weights, found.column_norms if importance is None else importance, found.shift)

    @staticmethod
    def joined(parts: Sequence["Inputs"], shift: Float64[np.ndarray, "channels"] | None) -> "Inputs":
        """All rows of some timesteps: the error is the sum of theirs."""
        rows = np.concatenate([part.rows for part in parts])
        importance = np.concatenate([np.broadcast_to(part.importance, part.rows.shape) for part in parts])
        return Inputs(rows, np.concatenate([part.weights for part in parts]), importance, shift)

    def smoothed(self, factors: Float[np.ndarray, "channels"]) -> "Inputs":
        """The input divided by channel factors, with which the weights that it meets are multiplied."""
        shift = None if self.shift is None else self.shift / factors
        rows = (self.rows / factors).astype(np.float32)
        return replace(self, rows=rows, importance=self.importance * factors**2, shift=shift)

    def minus(self, shift: Float[np.ndarray, "channels"]) -> Float32[np.ndarray, "rows channels"]:
        """The rows without a shift."""
        return (self.rows - shift).astype(np.float32)

    @property
    def energy(self) -> float:
        """The output's squared norm under the same assumption: what errors are compared with."""
        return self._total(np.square(self.rows.astype(np.float64)))

    def error(self, grid: GridRows) -> float:
        """The mean squared norm of the output's error under a grid of one row; or whatever `importance` counts."""
        x = mx.array(self.rows)
        return self._total(np.array(mx.square(on_grid(x, grid) - x)).astype(np.float64))

    def _total(self, squares: Float64[np.ndarray, "rows channels"]) -> float:
        if self.importance.ndim == 1:
            return float(self.weights @ squares @ self.importance)
        return float(self.weights @ (squares * self.importance).sum(axis=1))


@dataclass(frozen=True)
class Tally:
    """Values by their bins, with what an error of each costs: candidates are judged on it at once."""

    values: Float[mx.array, "bins"]
    weights: Float[mx.array, "bins"]
    low: float
    high: float
    mean: float
    norm: float = NORM

    @staticmethod
    def of(
        rows: Float32[np.ndarray, "rows channels"],
        weights: Float64[np.ndarray, "rows"],
        importance: Float64[np.ndarray, "*rows channels"],
        norm: float = NORM,
    ) -> "Tally":
        """The tally of these values; a bin stands at the weighted mean of what it holds."""
        low, high = float(rows.min()), float(rows.max())
        width = (high - low) / BINS or 1.0
        bins = np.minimum(((rows - low) / width).astype(np.int64), BINS - 1).ravel()
        cost = (weights[:, None] * importance).ravel()
        total = np.bincount(bins, cost, BINS)
        sums = np.bincount(bins, cost * rows.ravel(), BINS)
        filled = total > 0
        if not filled.any():  # no weight meets these channels: any grid will do
            filled, total, sums = np.ones(BINS, bool), np.ones(BINS), np.linspace(low, high, BINS)
        values = mx.array((sums[filled] / total[filled]).astype(np.float32))
        mean = float(sums.sum() / total.sum())
        return Tally(values, mx.array(total[filled].astype(np.float32)), low, high, mean, norm)

    def errors(
        self,
        scales: Float64[np.ndarray, "candidates"],
        centres: Float64[np.ndarray, "candidates"],
        spec: Spec,
        below: float | None = None,
    ) -> Float64[np.ndarray, "candidates"]:
        """The error of each candidate grid; `below` is the step below zero as a part of the one above."""
        scale, centre = (mx.array(a.astype(np.float32))[:, None] for a in (scales, centres))
        x = mx.broadcast_to(self.values, (len(scales), self.values.size))
        part = None if below is None else mx.array(below)
        rounded = affine.fake_quant_within(x, scale, centre, spec.qmin, spec.qmax, part)
        error = mx.abs(rounded - x) ** self.norm @ self.weights
        return np.array(error).astype(np.float64)


def search_cost(values: int, kind: Kind, how: Range) -> Cost:
    """What `find_grid` and the error of its grid take on a sample of so many values."""
    tried = CANDIDATES[kind] if how == "mse" else 1
    searched = BINS * PER_CANDIDATE * tried + ON_GRID * values
    freed = 4 * BINS * LARGEST * FREED
    return Cost(values=searched, counted=TALLIED * values, memory=freed + 8 * TALLIED / 2 * values)


def find_grid(inputs: Inputs, bits: int, kind: Kind, how: Range = "mse", norm: float = NORM) -> GridRows:
    """The grid of this kind that has the least error in this norm, or that holds every value: one row.

    "channels" needs the moving midpoints; its grid is centred on them plus one value for all channels.
    """
    spec = Spec(bits)
    base = inputs.shift if kind == "channels" and inputs.shift is not None else np.zeros(inputs.rows.shape[1])
    rows = inputs.minus(base) if kind == "channels" else inputs.rows
    tally = Tally.of(rows, inputs.weights, inputs.importance, norm)
    if kind == "none":
        return GridRows.of([bits], np.array([symmetric(tally, spec, how)]))
    if kind == "dual-scale":
        scale, below = two_halves(tally, spec, how)
        return GridRows.of([bits], np.array([scale]), below=np.array([below]))
    scale, centre = asymmetric(tally, spec, how)
    shift = base + centre if kind == "channels" else np.array([centre])
    return GridRows.of([bits], np.array([scale]), shift[None])


def on_grid(x: Float[mx.array, "rows channels"], grid: GridRows) -> Float[mx.array, "rows channels"]:
    """x rounded to a grid of one row."""
    shift = mx.array(0.0) if grid.shift is None else grid.shift[0]
    below = None if grid.below is None else grid.below[0]
    spec = Spec(grid.bits[0])
    return affine.fake_quant_within(x, grid.step(0, x), shift, spec.qmin, spec.qmax, below)


def symmetric(tally: Tally, spec: Spec, how: Range) -> float:
    """The step of the grid around zero."""
    full = max(tally.low / spec.qmin, tally.high / spec.qmax)
    if full <= 0:
        return 1.0
    return full if how == "max" else _narrowed(tally, full, spec)[1]


def two_halves(tally: Tally, spec: Spec, how: Range) -> tuple[float, float]:
    """The step above zero, and the one below it as a part of that, a power of two.

    Near the power that lets both halves reach as far as the values, each is tried with the steps that are best for it.
    """
    low, high = max(tally.low / spec.qmin, 0.0), max(tally.high / spec.qmax, 0.0)
    if low <= 0 or high <= 0:
        return symmetric(tally, spec, how), 1.0
    between = np.log2(low / high)
    if how == "max":
        octave = np.clip(np.ceil(between), -FARTHEST, FARTHEST)
        return max(high, low * 2.0**-octave), 2.0**octave
    octaves = np.unique(np.clip(np.round(between) + np.arange(-3, 4), -FARTHEST, FARTHEST))
    found = []
    for below in 2.0**octaves:
        found.append((*_narrowed(tally, max(high, low / below), spec, float(below)), float(below)))
    _, scale, below = min(found)
    return scale, below


def _narrowed(tally: Tally, full: float, spec: Spec, below: float | None = None) -> tuple[float, float]:
    """The least error of steps up to `full`, and its step."""
    ratios = np.geomspace(1, LEAST_RATIO, 32)

    def errors(ratios: np.ndarray) -> np.ndarray:
        return tally.errors(full * ratios, np.zeros(len(ratios)), spec, below)

    best = int(errors(ratios).argmin())
    near = np.append(np.linspace(ratios[max(best - 1, 0)], ratios[min(best + 1, 31)], 12), ratios[best])
    tried = errors(near)
    return float(tried.min()), full * float(near[tried.argmin()])


def asymmetric(tally: Tally, spec: Spec, how: Range) -> tuple[float, float]:
    """Step and centre of the grid from a low to a high end, each moved by itself."""
    if tally.high <= tally.low:
        return symmetric(tally, spec, "max"), 0.0

    def grid(ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scales = (ends[:, 1] - ends[:, 0]) / (spec.qmax - spec.qmin)
        return scales, ends[:, 0] - spec.qmin * scales

    full, mean = np.array([tally.low, tally.high]), tally.mean
    if how == "mse":
        ends = mean + np.geomspace(1, LEAST_RATIO, 24)[:, None] * (full - mean)
        best = ends[tally.errors(*grid(ends), spec).argmin()]
        for spread in (2.0, 1.3, 1.06):
            for side in (0, 1):
                ends = np.tile(best, (13, 1))
                ends[:, side] = mean + np.geomspace(1 / spread, spread, 13) * (best[side] - mean)
                ends[:, side] = np.clip(ends[:, side], *full)
                ends[0] = best
                best = ends[tally.errors(*grid(ends), spec).argmin()]
        full = best
    scales, centres = grid(full[None])
    return float(scales[0]), float(centres[0])
