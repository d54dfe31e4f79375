"""What a run of a recipe did to every layer, as JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import mlx.core as mx
import numpy as np

from ditq import capture
from ditq.core.recipe import Rule
from ditq.models.base import Network
from ditq.quantization.driver import Quantized


def report_of(network: Network, rules: Mapping[str, Rule], found: Quantized) -> dict[str, Any]:
    """A line per layer: method, grid, how far the weight moved, and what its method reports of it."""
    told, weights, blocks = dict(found.outside), found.weights, found.blocks
    for block in blocks:
        for part in [block, *block.get("methods", {}).values()]:
            told |= part.get("layers", {})
    modules, layers = network.anatomy.modules(network), {}
    for path, rule in rules.items():
        weight = capture.matrix(modules[path]).astype(mx.float32)
        moved = mx.linalg.norm(weights[path].effective() - weight) / mx.maximum(mx.linalg.norm(weight), 1e-30)
        own = {
            key: value
            for key, value in told.get(path, {}).items()
            if key not in ("name", "seconds", "method")
        }
        layers[path] = {
            "method": rule.method,
            "grid": asdict(weights[path].spec),
            "bits_per_weight": round(weights[path].bits_per_weight, 4),
            "weight_error": float(f"{float(np.array(moved)):.6g}"),
            **own,
        }
    kept = ("block", "error_rounding", "error", "kept_rounding")
    return {"layers": layers, "blocks": [{key: block[key] for key in kept} for block in blocks]}


def summary_of(report: Mapping[str, Any]) -> dict[str, Any]:
    """Counts and errors for config.json."""
    methods = [layer["method"] for layer in report["layers"].values()]
    fallbacks = {path: layer["fallback"] for path, layer in report["layers"].items() if layer.get("fallback")}
    errors = [(block["error_rounding"], block["error"]) for block in report["blocks"]]
    return {
        "methods": {name: methods.count(name) for name in dict.fromkeys(methods)},
        "block_error_rounding": float(np.mean([before for before, _ in errors])) if errors else None,
        "block_error": float(np.mean([after for _, after in errors])) if errors else None,
        "fallbacks": fallbacks,
    }
