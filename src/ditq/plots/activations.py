"""All figures of Phase 2 by name: what is drawn of a set of layers, and of each layer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from ditq.diagnostics import ActivationStatistics, streams
from ditq.plots.distributions import histogram_figure, levels_figure, ridge_figure
from ditq.plots.figure_names import FIGURES
from ditq.plots.heatmaps import channel_heatmap, mean_heatmap, negative_fraction_heatmap, std_heatmap
from ditq.plots.ranges import channel_ranges_figure, range_vs_timestep, weight_ranges

RANGES = "range_vs_timestep_{}"
"""One of all layers, and one of each stream."""
OVERVIEWS: dict[str, Callable[[ActivationStatistics, Sequence[str]], Figure]] = {
    "heatmap_mean": mean_heatmap,
    "heatmap_std": std_heatmap,
    "negative_fraction_heatmap": negative_fraction_heatmap,
}
PER_LAYER: dict[str, Callable[[ActivationStatistics, dict[str, Any], str], Figure]] = {
    "histogram": histogram_figure,
    "ridge": ridge_figure,
    "channel_ranges": channel_ranges_figure,
    "channel_heatmap": channel_heatmap,
    "weight_ranges": weight_ranges,
    "levels": levels_figure,
}


def overviews(
    statistics: ActivationStatistics, found: dict[str, Any], wanted: Sequence[str] = FIGURES
) -> Iterator[tuple[str, Figure]]:
    """The figures of all layers, by the name of their file.

    The ranges of a stream that `FIGURES` does not name are drawn with those of all layers.
    """
    names = statistics.names
    own = {stream: [path for path in names if names[path].stream == stream] for stream in streams(names)}
    groups = {"all": list(names), **{stream: paths for stream, paths in own.items() if stream is not None}}
    for group, paths in groups.items():
        name = RANGES.format(group)
        if (name if name in FIGURES else RANGES.format("all")) in wanted:
            yield name, range_vs_timestep(statistics, found, paths)
    for name, draw in OVERVIEWS.items():
        if name in wanted:
            yield name, draw(statistics, list(names))


def of_layer(
    statistics: ActivationStatistics, found: dict[str, Any], path: str, wanted: Sequence[str] = FIGURES
) -> Iterator[tuple[str, Figure]]:
    """The figures of one layer, by the name of their file: <figure>_<label>."""
    entry = {**found["layers"][path], "bits": found["bits"]}
    for name, draw in PER_LAYER.items():
        if name in wanted:
            yield f"{name}_{entry['label']}", draw(statistics, entry, path)
