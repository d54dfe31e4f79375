"""Step 3A: from statistics to decisions, the bits, the grid and the channel factors of every layer and timestep."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import numpy as np
from jaxtyping import Float32, Float64

from ditq.activations.bits import BitChoice, Judged
from ditq.activations.grid_search import NORM, Grid, Inputs, Kind, Range, find_grid
from ditq.activations.smooth import Smoothing, best_factors
from ditq.activations.tiers import Reach
from ditq.diagnostics import InputStatistics, LayerStatistics, PooledStatistics
from ditq.diagnostics.layer_inputs import magnitude

GATE_STEPS = 4
"""Timesteps that the factors' gate looks at, evenly spread."""


@dataclass(frozen=True)
class Decision:
    """What is decided of every observed input, one entry per timestep."""

    grids: dict[str, list[Grid]]
    kinds: dict[str, Kind]
    """The kind of shift, the same at all of a layer's timesteps."""
    smooth: dict[str, Float32[np.ndarray, "channels"]]
    ranges: dict[str, Float64[np.ndarray, "steps"]]
    """What the tiers look at."""
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Why: errors of each kind of shift, spikes, and what the gate of the factors found."""

    @property
    def bits(self) -> dict[str, list[int]]:
        """The bits of each input at each timestep."""
        return {source: [grid.bits for grid in grids] for source, grids in self.grids.items()}


@dataclass(frozen=True)
class Analysis:
    """How bits, ranges, shifts and factors are chosen."""

    bits: BitChoice
    how: Range = "mse"
    norm: float = NORM
    """The exponent of the error that grids minimise: 2 is the mean squared error."""
    smoothing: Smoothing = field(default_factory=Smoothing)
    shift_gain: float = 0.02
    """The part of the error that a shift must save, over the layer's timesteps, to be worth its bias table."""
    time_gain: float = 0.1
    """The part of it that a grid for each timestep must save against one for all: below that a grid follows the noise
    of its own sample more than any drift."""

    def decide(
        self,
        statistics: LayerStatistics,
        weights: Callable[[list[str]], Mapping[str, mx.array]],
        on_step: Callable[[], None] = lambda: None,
    ) -> Decision:
        """The decision for all observed inputs. `weights(paths)` is asked only where a layer has isolated spikes."""
        reports: dict[str, dict[str, Any]] = {source: {} for source in statistics.groups}
        smooth = self._smoothing_factors(statistics, weights, reports)
        judged: dict[str, list[Judged]] = {source: [] for source in statistics.groups}
        candidates: dict[str, list[dict[tuple[int, Kind], tuple[Grid, float]]]] = {s: [] for s in judged}
        for step in statistics.steps:
            for source, found in statistics.at(step).items():
                inputs = _inputs(found, smooth.get(source))
                reach = reach_of(found)
                kinds: list[Kind] = ["none", "tensor", *(["channels"] if found.shift is not None else [])]
                tried = {}
                for bits in self.bits.options(reach, source in smooth):
                    for kind in kinds:
                        grid = find_grid(inputs, bits, kind, self.how, self.norm)
                        tried[bits, kind] = (grid, inputs.error(grid))
                errors = {b: min(e for (own, _), (_, e) in tried.items() if own == b) for b, _ in tried}
                size = found.count * len(found.abs_min)
                judged[source].append(Judged(reach, errors, size, inputs.energy, source in smooth))
                candidates[source].append(tried)
            on_step()
        chosen = self.bits.choose(judged)
        decision, own = Decision({}, {}, smooth, {}, reports), {}
        for source, steps in candidates.items():
            kind, errors = self._kind(steps, chosen[source])
            decision.kinds[source] = kind
            decision.grids[source] = [
                tried[b, kind][0] for tried, b in zip(steps, chosen[source], strict=True)
            ]
            decision.ranges[source] = np.array([one.reach.range for one in judged[source]])
            energy = sum(one.energy for one in judged[source]) or 1.0
            reports[source]["relative_error"] = {name: error / energy for name, error in errors.items()}
            own[source] = errors[kind]
        self._share_grids(statistics, decision, own)
        return decision

    def _share_grids(self, statistics: LayerStatistics, decision: Decision, own: Mapping[str, float]) -> None:
        """Gives inputs whose grids per timestep save less than `time_gain` one grid for all timesteps.

        Only where the bits are the same at all timesteps; where they are not, the timesteps must differ.
        """
        if len(statistics.steps) == 1:
            return
        shared: dict[str, Grid] = {}
        pooled = PooledStatistics(statistics.folder, statistics.manifest)
        for source, found in pooled.at(pooled.steps[0]).items():
            bits = set(decision.bits[source])
            if len(bits) == 1:
                inputs = _inputs(found, decision.smooth.get(source))
                shared[source] = find_grid(inputs, bits.pop(), decision.kinds[source], self.how, self.norm)
        errors = dict.fromkeys(shared, 0.0)
        for step in statistics.steps:
            for source, found in statistics.at(step).items():
                if source in shared:
                    errors[source] += _inputs(found, decision.smooth.get(source)).error(shared[source])
        for source, grid in shared.items():
            saved = 1 - own[source] / errors[source] if errors[source] > 0 else 0.0
            decision.reports[source]["saved_by_own_grids"] = saved
            if saved < self.time_gain:
                decision.grids[source] = [grid] * len(statistics.steps)

    def _kind(
        self, steps: list[dict[tuple[int, Kind], tuple[Grid, float]]], bits: list[int]
    ) -> tuple[Kind, dict[Kind, float]]:
        """The simplest kind of shift that no costlier one betters by `shift_gain`, and each kind's total error."""
        kinds: list[Kind] = list(dict.fromkeys(kind for _, kind in steps[0]))
        errors: dict[Kind, float] = {
            kind: sum(tried[b, kind][1] for tried, b in zip(steps, bits, strict=True)) for kind in kinds
        }
        best = kinds[0]
        for kind in kinds[1:]:
            if errors[kind] < (1 - self.shift_gain) * errors[best]:
                best = kind
        return best, errors

    def _smoothing_factors(
        self,
        statistics: LayerStatistics,
        weights: Callable[[list[str]], Mapping[str, mx.array]],
        reports: dict[str, dict[str, Any]],
    ) -> dict[str, Float32[np.ndarray, "channels"]]:
        """The factors of the layers that have isolated spikes and pass the gate, by observed input."""
        allowed = [source for source in statistics.groups if self.smoothing.allows(source)]
        if not allowed:
            return {}
        absmax: dict[str, np.ndarray] = {}
        counts: dict[str, np.ndarray] = {}
        for step in statistics.steps:
            for source, found in statistics.at(step).items():
                before = absmax.get(source, np.zeros_like(found.absmax))
                absmax[source] = np.maximum(before, found.absmax)
                counts[source] = counts.get(source, 0) + found.counts
        spiked = {}
        for source in allowed:
            p99 = magnitude(counts[source], 0.99, float(absmax[source].max()))
            spikes = self.smoothing.spikes(absmax[source], p99)
            if spikes is not None:
                spiked[source] = spikes
                reports[source]["spikes"] = np.flatnonzero(spikes).tolist()
                reports[source]["p100_over_p99"] = float(absmax[source].max() / p99)
        return self._gated(statistics, weights, absmax, spiked, reports) if spiked else {}

    def _gated(
        self, statistics, weights, absmax, spiked, reports
    ) -> dict[str, Float32[np.ndarray, "channels"]]:
        """Those factors that make the output of rounded weights and inputs better."""
        at = np.unique(np.round(np.linspace(0, len(statistics.steps) - 1, GATE_STEPS)).astype(int))
        seen = [statistics.at(statistics.steps[i]) for i in at]
        loaded = weights([path for source in spiked for path in statistics.groups[source]])
        smooth = {}
        for source, spikes in spiked.items():
            inputs = [Inputs.of(found[source]) for found in seen]
            bits = [max(self.bits.options(reach_of(found[source]), False)) for found in seen]
            own = [loaded[path] for path in statistics.groups[source]]
            found, errors = best_factors(inputs, bits, own, absmax[source], spikes, self.smoothing.weights)
            reports[source]["smooth_errors"] = {str(strength): error for strength, error in errors.items()}
            if found is not None:
                smooth[source] = found
        return smooth


def reach_of(found: InputStatistics) -> Reach:
    """What the tiers look at: average extremes, around the shift where there is one, and quantiles."""
    shift = np.zeros(1) if found.shift is None else found.shift
    largest = float(found.absmax.max())
    return Reach(
        range=float(np.maximum(shift - found.avg_min, found.avg_max - shift).max()),
        p50=magnitude(found.counts, 0.5, largest),
        p99=magnitude(found.counts, 0.99, largest),
        shifted=found.shift is not None,
    )


def _inputs(found: InputStatistics, smooth: np.ndarray | None) -> Inputs:
    inputs = Inputs.of(found)
    return inputs if smooth is None else inputs.smoothed(smooth)
