"""Which inputs get channel factors: those with isolated spikes where rounding says that factors help."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from ditq.activations.bits import BitChoice
from ditq.activations.decision import Weights
from ditq.activations.grid_search import Inputs
from ditq.activations.smooth import Smoothing, best_factors
from ditq.activations.tiers import reach_of
from ditq.diagnostics import LayerStatistics
from ditq.diagnostics.layer_inputs import magnitude

GATE_STEPS = 4
"""Timesteps on which factors are tried, evenly spread."""
Channels = Float32[np.ndarray, "_"]


def smoothing_factors(
    statistics: LayerStatistics,
    weights: Weights,
    smoothing: Smoothing,
    bits: BitChoice,
    reports: Mapping[str, dict[str, Any]],
) -> dict[str, Channels]:
    """The factors of the observed inputs that get some; `reports`, by input, gain what was found."""
    allowed = smoothing.allowed(statistics)
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
        spikes = smoothing.spikes(absmax[source], p99)
        if spikes is not None:
            spiked[source] = spikes
            reports[source]["spikes"] = np.flatnonzero(spikes).tolist()
            reports[source]["p100_over_p99"] = float(absmax[source].max() / p99)
    return _gated(statistics, weights, smoothing, bits, absmax, spiked, reports) if spiked else {}


def _gated(
    statistics: LayerStatistics,
    weights: Weights,
    smoothing: Smoothing,
    choice: BitChoice,
    absmax: Mapping[str, Channels],
    spiked: Mapping[str, Bool[np.ndarray, "_"]],
    reports: Mapping[str, dict[str, Any]],
) -> dict[str, Channels]:
    """Those factors that make the output of rounded weights and inputs better."""
    at = np.unique(np.round(np.linspace(0, len(statistics.steps) - 1, GATE_STEPS)).astype(int))
    seen = [statistics.at(statistics.steps[i]) for i in at]
    loaded = weights([path for source in spiked for path in statistics.groups[source]])
    smooth = {}
    for source, spikes in spiked.items():
        inputs = [Inputs.of(found[source]) for found in seen]
        bits = [max(choice.options(reach_of(found[source]), False)) for found in seen]
        own = [loaded[path].reshape(-1, len(spikes)) for path in statistics.groups[source]]
        found, errors = best_factors(inputs, bits, own, absmax[source], spikes, smoothing.weights)
        reports[source]["smooth_errors"] = {str(strength): error for strength, error in errors.items()}
        if found is not None:
            smooth[source] = found
    return smooth
