"""How wide activations are: over time, over channels, and beside the weights that they meet."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ditq.diagnostics import ActivationStatistics, streams
from ditq.diagnostics.judge import channel_ranges, conclusion, times
from ditq.plots.style import BLUE, VERMILLION, along_timesteps, figure, log_if_wide, ramp, tidy

TOP = 0.02
"""The part of the channels that is highlighted."""
ROOM = 1.25
"""Weights up to so much wider than the median can take over some of an activation's scale."""
NAMED = 10
"""Up to so many layers are named at their lines; more are told apart by a colour scale."""
DASHES = ("-", "--", ":", "-.")
"""The lines of each stream, in the order of their names."""


def range_vs_timestep(
    statistics: ActivationStatistics, found: dict[str, Any], paths: Sequence[str]
) -> Figure:
    """Greatest and least value of each layer at each timestep; each stream has its own dashes."""
    timesteps, names = statistics.timesteps, statistics.names
    dashes = {stream: DASHES[i % len(DASHES)] for i, stream in enumerate(streams(names))} | {None: "-"}
    ends = {
        path: np.array([[part.maximum.max(), part.minimum.min()] for part in _in_order(statistics, path)])
        for path in paths
    }
    told = conclusion({path: found["layers"][path] for path in paths}, "drift")
    made = figure(told[0].upper() + told[1:])
    upper, lower = made.subplots(2, 1, sharex=True, height_ratios=[3, 1.3])
    for path, colour in zip(paths, ramp(len(paths)), strict=True):
        label, style = names[path].label, dashes[names[path].stream]
        for axis, values in zip((upper, lower), ends[path].T, strict=True):
            axis.plot(timesteps, values, style, color=colour, marker=".", linewidth=1.6, label=label)
    log_if_wide(upper, np.concatenate([values[:, 0] for values in ends.values()]))
    tidy(upper, ylabel="greatest value")
    tidy(lower, ylabel="least value")
    along_timesteps(lower, timesteps)
    lowest = min(float(values[:, 1].min()) for values in ends.values())
    highest = max(float(values[:, 1].max()) for values in ends.values())
    lower.set_ylim(min(1.25 * lowest, lowest - 0.02), max(0.0, highest) + 0.02)
    if len(paths) <= NAMED:
        upper.legend(loc="center left", bbox_to_anchor=(1.0, 0.4), frameon=False, fontsize=9)
    else:
        first, last = names[paths[0]].label, names[paths[-1]].label
        upper.set_title(f"{len(paths)} layers, from {first} (dark) to {last} (pale)", fontsize=9, loc="right")
    return made


def channel_ranges_figure(statistics: ActivationStatistics, entry: dict[str, Any], path: str) -> Figure:
    """The range of every channel over all timesteps, the widest two in a hundred highlighted."""
    whole, outliers = statistics.over_time(path), entry["outliers"]
    ranges = channel_ranges(whole)
    top = _widest(ranges)
    strength = "infinitely often" if outliers["strength"] is None else f"{times(outliers['strength'])} times"
    made = figure(
        f"{entry['label']}: the widest of {len(ranges)} channels is {strength} as wide as the median one "
        f"({outliers['level']} outliers); {len(outliers['channels'])} are over {outliers['threshold']:g} times as wide"
    )
    axis = made.subplots()
    rest = np.setdiff1d(np.arange(len(ranges)), top)
    for channels, colour, name in ((rest, BLUE, "other channels"), (top, VERMILLION, f"widest {TOP:.0%}")):
        axis.vlines(
            channels,
            whole.minimum[channels],
            whole.maximum[channels],
            color=colour,
            linewidth=1.1,
            label=name,
        )
    top_of_median = outliers["median"] + float(np.median(whole.minimum))
    axis.axhline(top_of_median, color="black", linestyle="--", label="median range")
    tidy(axis, xlabel="channel", ylabel="least to greatest value, all timesteps")
    axis.set_xlim(-1, len(ranges))
    axis.legend(loc="upper right", frameon=False, fontsize=9, ncols=3, bbox_to_anchor=(1.0, 1.07))
    return made


def weight_ranges(statistics: ActivationStatistics, entry: dict[str, Any], path: str) -> Figure:
    """The greatest absolute activation and weight of every channel, channels sorted by activation."""
    whole = statistics.over_time(path)
    activation = np.maximum(np.abs(whole.minimum), np.abs(whole.maximum))
    weight = np.maximum(*map(np.abs, statistics.weights[path]))
    order = np.argsort(-activation, kind="stable")
    widest = float(np.median(weight[_widest(activation)]))
    median = float(np.median(weight))
    share = widest / median if median else float("inf")
    advice = (
        "there is room to move scale into them" if share < ROOM else "scale moved there widens what is wide"
    )
    made = figure(
        f"{entry['label']}: the {TOP:.0%} of channels with the widest activations meet weights {share:.1f} times "
        f"as wide as the median: {advice}"
    )
    upper, lower = made.subplots(2, 1, sharex=True)
    for axis, values, colour, name in (
        (upper, activation[order], VERMILLION, "activation"),
        (lower, weight[order], BLUE, "weight"),
    ):
        axis.plot(values, color=colour, linewidth=1.3, marker="." if len(values) < 50 else "")
        middle = float(np.median(values))
        axis.axhline(middle, color="black", linewidth=1, linestyle="--", label=f"median {middle:.3g}")
        axis.legend(loc="upper right", frameon=False, fontsize=9)
        log_if_wide(axis, values)
        tidy(axis, ylabel=f"greatest |{name}|")
    lower.set_xlabel("channel, sorted by activation")
    lower.set_xlim(-1, len(order))
    return made


def _widest(ranges: np.ndarray) -> np.ndarray:
    return np.argsort(-ranges, kind="stable")[: max(1, round(TOP * len(ranges)))]


def _in_order(statistics: ActivationStatistics, path: str) -> list:
    return [statistics.layers[path][t] for t in statistics.timesteps]
