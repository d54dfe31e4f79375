"""How activations are distributed: at each timestep, and over the levels of an activation grid."""

from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ditq.diagnostics import ActivationStatistics
from ditq.diagnostics.histogram import even_edges, quantiles
from ditq.diagnostics.levels import GRIDS, tenths
from ditq.plots.style import BLUE, GREEN, GREY, VERMILLION, figure, picked, ramp, tidy


def histogram_figure(statistics: ActivationStatistics, entry: dict[str, Any], path: str) -> Figure:
    """The histogram of a layer at up to six timesteps, densities on a log scale."""
    steps, edges = statistics.layers[path], even_edges()
    q99 = entry["quantiles"]["0.99"]
    tail = (
        f"the greatest is {entry['max'] / q99:.0f} times that"
        if q99 > 0
        else f"the greatest is {entry['max']:.2f}"
    )
    made = figure(
        f"{entry['label']}: {entry['negative_fraction']:.0%} of the values lie in [{entry['min']:.2f}, 0) and 99% "
        f"below {q99:.2f}; {tail}"
    )
    axis = made.subplots()
    shown = picked(statistics.timesteps, 6)
    beyond = 0
    for t, colour in zip(shown, ramp(len(shown)), strict=True):
        even = steps[t].histograms.even
        density = even[1:-1] / even.sum() / np.diff(edges)
        axis.stairs(
            np.where(density > 0, density, np.nan),
            edges,
            baseline=None,
            color=colour,
            linewidth=1.5,
            label=f"{t:.0f}",
        )
        beyond += int(even[0] + even[-1])
    low, high = _window(statistics, path)
    axis.set_xlim(low, high)
    if any(steps[t].histograms.even[1:-1].any() for t in shown):
        axis.set_yscale("log")
    axis.axvline(0, color=GREY, linewidth=0.8)
    tidy(axis, xlabel="activation", ylabel="density")
    axis.legend(title="timestep", frameon=False, fontsize=9, loc="upper right")
    if beyond:
        axis.set_title(f"{beyond:,} values lie beyond [-8, 8)", fontsize=9, loc="right")
    return made


def ridge_figure(statistics: ActivationStatistics, entry: dict[str, Any], path: str) -> Figure:
    """The histogram of a layer at every timestep, one ridge above the other, heights on a log scale."""
    shown, drift = picked(statistics.timesteps, 13), entry["drift"]
    made = figure(f"{entry['label']}: {drift['meaning']} (drift: {drift['level']})", height=5.8)
    axis = made.subplots()
    edges = even_edges()[::2]
    middles = (edges[:-1] + edges[1:]) / 2
    for row, (t, colour) in enumerate(zip(shown, ramp(len(shown)), strict=True)):
        part = statistics.layers[path][t]
        counts = part.histograms.even[1:-1].reshape(-1, 2).sum(axis=1)
        heights = 1.6 * np.log10(1 + counts) / np.log10(1 + max(counts.max(), 1))
        axis.fill_between(
            middles, row, row - heights, step="mid", facecolor=colour, edgecolor="white", zorder=row
        )
        low, high = float(part.minimum.min()), float(part.maximum.max())
        q99 = quantiles(part.histograms.wide, np.array([0.99]), low, high)
        name = "" if row else "99% lie below"
        axis.plot(q99, [row - 0.1], "v", color=VERMILLION, markersize=6, zorder=row + 0.5, label=name)
        axis.annotate(f"max {high:.3g}", (1.01, row), xycoords=("axes fraction", "data"), fontsize=8.5)
    axis.set_yticks(range(len(shown)), [f"{t:.0f}" for t in shown])
    axis.set_ylim(len(shown) - 0.8, -1.8)
    axis.set_xlim(*_window(statistics, path))
    tidy(axis, xlabel="activation", ylabel="timestep: noise above, picture below; heights: log counts")
    axis.grid(False)
    axis.legend(loc="upper right", frameon=False, fontsize=9)
    return made


def levels_figure(statistics: ActivationStatistics, entry: dict[str, Any], path: str) -> Figure:
    """How many levels of each grid every tenth of the values receives, on a log scale."""
    bits, levels = entry["bits"], {name: np.array(entry["levels_per_tenth"][name]) for name in GRIDS}
    starved = {name: int((each < 1).sum()) for name, each in levels.items()}
    made = figure(
        f"{entry['label']}: of ten tenths of the values, {starved['symmetric']} get less than one level each on a "
        f"symmetric A{bits} grid, {starved['shifted']} on a shifted and {starved['asymmetric']} on an asymmetric one"
    )
    axis = made.subplots()
    every = np.concatenate(list(levels.values()))
    floor = min(0.5, float(every[every > 0].min(initial=1))) / 2
    for offset, (name, colour) in enumerate(zip(GRIDS, (BLUE, VERMILLION, GREEN), strict=True)):
        values = levels[name]
        bars = axis.bar(
            np.arange(10) + 0.28 * (offset - 1), np.maximum(values, floor) - floor, 0.27, bottom=floor, color=colour,
            label=f"{name}: {_short(float(np.median(values)))}",
        )  # fmt: skip
        axis.bar_label(bars, [_short(value) for value in values], fontsize=7, rotation=90, padding=2)
    axis.axhline(1, color="black", linewidth=1, linestyle="--", zorder=0.5)
    axis.set_yscale("log")
    axis.set_ylim(floor, 4 * float(every.max()) + 2)
    edges = tenths(statistics.over_time(path))
    names = [f"{_edge(low)}\nto {_edge(high)}" for low, high in pairwise(edges)]
    axis.set_xticks(range(10), names, fontsize=8.5)
    tidy(axis, xlabel="tenth of the values, from the least to the greatest", ylabel="levels (width in steps)")
    axis.grid(False, axis="x")
    axis.legend(title="levels of the median tenth", ncols=3, frameon=False, fontsize=9, title_fontsize=9,
                loc="lower right", bbox_to_anchor=(1.0, 0.98))  # fmt: skip
    return made


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _edge(value: float) -> str:
    """Two decimals, or two digits where these would all be zeros; never -0."""
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.2g}" if value else "0"


def _window(statistics: ActivationStatistics, path: str) -> tuple[float, float]:
    """The part of [-8, 8] that holds the values, with a margin."""
    whole, edges = statistics.over_time(path), even_edges()
    low, high = max(float(whole.minimum.min()), edges[0]), min(float(whole.maximum.max()), edges[-1])
    margin = max(0.03 * (high - low), 0.05)
    return min(low, high) - margin, max(low, high) + margin
