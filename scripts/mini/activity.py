"""What the MLPs of the trained transformer see behind the GELU: asymmetry, drift over the steps, channel outliers."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from mini.gate import Drawer, held_out_pictures
from mini.words import caption

STREAMS = {"image": "ff", "text": "ff_context"}


def activity(folder: Path, options: dict, count: int) -> dict:
    """Per layer, over `count` prompts and all steps of their trajectories, behind the GELU (the input of fc2):

    `lowest`, `highest`: over all steps; `asymmetry`: highest over |lowest|; `drift`: largest absolute value of the
    loudest step over that of the quietest; `first_to_last`: the same of the first over the last step; `outliers`:
    absolute maximum of the widest channel over that of the median channel. And their medians per stream.
    """
    draw = Drawer(folder, options)
    ranges: dict[str, list[Range]] = defaultdict(list)
    handles = [
        getattr(block, mlp).net[0].register_forward_hook(_watch(ranges[f"{stream} {number}"]))
        for number, block in enumerate(draw.blocks)
        for stream, mlp in STREAMS.items()
        if getattr(block, mlp) is not None
    ]
    try:
        draw.latents([caption(item) for item in held_out_pictures(count)], range(count))
    finally:
        for handle in handles:
            handle.remove()
    layers = {name: describe(seen, options["steps"]) for name, seen in sorted(ranges.items())}
    return {"prompts": count, **options, "layers": layers, "streams": _medians(layers)}


Range = tuple[np.ndarray, np.ndarray]  # smallest and largest value of every channel in one call


def _watch(seen: list[Range]):
    def hook(_module, _inputs, output: torch.Tensor) -> None:
        flat = output.flatten(0, -2)
        seen.append((flat.amin(0).numpy(), flat.amax(0).numpy()))

    return hook


def describe(seen: list[Range], steps: int) -> dict[str, float]:
    """The figures of one layer; its calls run through the steps once per batch."""
    low = np.stack([low for low, _ in seen]).reshape(-1, steps, len(seen[0][0])).min(0)
    high = np.stack([high for _, high in seen]).reshape(-1, steps, len(seen[0][0])).max(0)
    loudest = np.maximum(high, -low)
    by_step, by_channel = loudest.max(1), loudest.max(0)
    return {
        "lowest": float(low.min()),
        "highest": float(high.max()),
        "asymmetry": float(high.max() / -low.min()),
        "drift": float(by_step.max() / by_step.min()),
        "first_to_last": float(by_step[0] / by_step[-1]),
        "outliers": float(by_channel.max() / np.median(by_channel)),
    }


def _medians(layers: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    found = {}
    for stream in STREAMS:
        rows = [figures for name, figures in layers.items() if name.startswith(stream)]
        found[stream] = {name: float(np.median([row[name] for row in rows])) for name in rows[0]}
    return found | {"share_drifting": float(np.mean([row["drift"] >= 2 for row in layers.values()]))}
