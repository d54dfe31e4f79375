"""Tables of numbers as colours: layers by timesteps, and the channels of one layer by timesteps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ditq.diagnostics import ActivationStatistics, ChannelStatistics
from ditq.diagnostics.judge import channel_ranges, times
from ditq.plots.ranges import TOP
from ditq.plots.style import figure, heat


def mean_heatmap(statistics: ActivationStatistics, paths: Sequence[str]) -> Figure:
    """The mean of each layer at each timestep."""
    values = _table(statistics, paths, lambda part: float(part.mean.mean()))
    row = int(np.argmax(np.ptp(values, axis=1)))
    low, high = values[row].min(), values[row].max()
    told = f"Means drift most in {statistics.names[paths[row]].label}: from {low:.3f} to {high:.3f} over the timesteps"
    return _heatmap(told, values, statistics, paths, "mean")


def std_heatmap(statistics: ActivationStatistics, paths: Sequence[str]) -> Figure:
    """The standard deviation of all of a layer's values at each timestep."""
    values = _table(statistics, paths, _whole_std)
    ratios = values.max(axis=1) / np.where(values.min(axis=1) > 0, values.min(axis=1), np.inf)
    row = int(np.argmax(ratios))
    label = statistics.names[paths[row]].label
    told = f"Spread drifts most in {label}: the standard deviation changes {times(ratios[row])}-fold"
    return _heatmap(told, values, statistics, paths, "standard deviation")


def negative_fraction_heatmap(statistics: ActivationStatistics, paths: Sequence[str]) -> Figure:
    """The fraction of each layer's values below zero at each timestep."""
    values = _table(statistics, paths, lambda part: part.negative_fraction)
    low, high = values.min(), values.max()
    told = f"Between {low:.0%} and {high:.0%} of the values are negative, at every layer and timestep"
    return _heatmap(told, values, statistics, paths, "fraction below zero")


def channel_heatmap(statistics: ActivationStatistics, entry: dict[str, Any], path: str) -> Figure:
    """The range of every channel at every timestep, channels sorted by their range over all of them."""
    steps, timesteps = statistics.layers[path], statistics.timesteps
    ranges = np.stack([channel_ranges(steps[t]) for t in timesteps], axis=1)
    count = max(1, round(TOP * len(ranges)))
    first, last = (set(np.argsort(-ranges[:, i], kind="stable")[:count].tolist()) for i in (0, -1))
    kept = len(first & last) / count
    advice = "one list of outliers serves all timesteps"
    if kept < 0.9:
        advice = "outliers depend on the timestep" + (" in part" if kept >= 0.5 else "")
    if not ranges.any():
        advice = "no channel varies within a timestep"
    if len(timesteps) == 1:
        advice = "but one timestep was observed"
    made = figure(
        f"{entry['label']}: {kept:.0%} of the widest {TOP:.0%} of channels at the first timestep are the widest at the "
        f"last: {advice}"
    )
    axis = made.subplots()
    order = np.argsort(-channel_ranges(statistics.over_time(path)), kind="stable")
    heat(made, axis, _above_zero(ranges[order]), timesteps, "range of the channel")
    axis.set_ylabel(f"{len(ranges)} channels, the widest above")
    return made


def _heatmap(
    told: str, values: np.ndarray, statistics: ActivationStatistics, paths: Sequence[str], meaning: str
) -> Figure:
    made = figure(told, height=min(9.0, max(3.4, 1.7 + 0.32 * len(paths))))
    axis = made.subplots()
    heat(made, axis, values, statistics.timesteps, meaning)
    labels = [statistics.names[path].label for path in paths]
    axis.set_yticks(range(len(paths)), labels, fontsize=9 if len(paths) < 30 else 6)
    return made


def _table(statistics: ActivationStatistics, paths: Sequence[str], number) -> np.ndarray:
    return np.array([[number(statistics.layers[path][t]) for t in statistics.timesteps] for path in paths])


def _whole_std(part: ChannelStatistics) -> float:
    """Over channels and values alike."""
    if part.minimum.min() == part.maximum.max():
        return 0.0
    return float(np.sqrt(max((part.squares.mean() - part.count * part.mean.mean() ** 2) / part.count, 0.0)))


def _above_zero(ranges: np.ndarray) -> np.ndarray:
    """Ranges for a log scale: a silent channel shows as the quietest other."""
    positive = ranges[ranges > 0]
    return np.maximum(ranges, positive.min()) if positive.size else ranges
