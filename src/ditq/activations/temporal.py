"""How a layer's grid changes along the trajectory: what grids per timestep are good for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from ditq.activations.decision import Decision
from ditq.activations.tiers import reach_of
from ditq.diagnostics import LayerStatistics

KIND, VERSION = "ditq.layer_temporal_analysis", 1


def observed_ranges(
    statistics: LayerStatistics, decision: Decision
) -> dict[str, Float64[np.ndarray, "steps"]]:
    """How wide each decided input is at each step: what the method found, or the statistics read once more."""
    if decision.ranges:
        return decision.ranges
    found = [statistics.at(step) for step in decision.steps]
    return {source: np.array([reach_of(one[source]).range for one in found]) for source in decision.grids}


def temporal_analysis(
    bits: Mapping[str, Sequence[int]],
    ranges: Mapping[str, Float[np.ndarray, "steps"]],
    scales: Mapping[str, Float[np.ndarray, "steps"]],
    steps: Sequence[int],
) -> dict[str, Any]:
    """Per layer: variability of its range and step size, and where its bits change; lists of the notable layers."""
    layers = {path: _of_layer(bits[path], ranges[path], scales[path], steps) for path in bits}
    switching = [path for path, entry in layers.items() if entry["switches"]]
    return {
        "kind": KIND,
        "version": VERSION,
        "steps": list(steps),
        "switching_layers": sorted(switching, key=lambda path: -len(layers[path]["switches"])),
        "always_a8_layers": [path for path in bits if all(b == 8 for b in bits[path])],
        "most_variable_layers": sorted(layers, key=lambda path: -layers[path]["range_drift"])[:10],
        "layers": layers,
    }


def _of_layer(
    bits: Sequence[int],
    ranges: Float[np.ndarray, "steps"],
    scales: Float[np.ndarray, "steps"],
    steps: Sequence[int],
) -> dict[str, Any]:
    spans = scales * 2.0 ** np.array(bits)  # what the grid covers: comparable where bits change
    return {
        "range_drift": _drift(ranges),
        "range_variation": float(ranges.std() / ranges.mean()) if ranges.mean() > 0 else 0.0,
        "clip_drift": _drift(spans),
        "widest_at_step": steps[int(ranges.argmax())],
        "bits": {str(b): int(sum(one == b for one in bits)) for b in sorted(set(bits))},
        "switches": [
            {"step": steps[i + 1], "from": bits[i], "to": bits[i + 1]}
            for i in range(len(bits) - 1)
            if bits[i] != bits[i + 1]
        ],
    }


def _drift(values: Float[np.ndarray, "steps"]) -> float:
    """The greatest over the least; 1 where nothing varies."""
    return float(values.max() / values.min()) if values.min() > 0 else 1.0
