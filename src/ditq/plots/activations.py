"""All figures of Phase 2 by name: what is drawn of a set of layers, and of each layer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from matplotlib.figure import Figure

from ditq.diagnostics import ActivationStatistics, label, stream
from ditq.plots.distributions import histogram_figure, levels_figure, ridge_figure
from ditq.plots.figure_names import FIGURES, RANGES
from ditq.plots.heatmaps import channel_heatmap, mean_heatmap, negative_fraction_heatmap, std_heatmap
from ditq.plots.ranges import channel_ranges_figure, range_vs_timestep, weight_ranges

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
    "levels": lambda statistics, entry, path: levels_figure(statistics, entry, path, entry["bits"]),
}


def overviews(
    statistics: ActivationStatistics, found: dict[str, Any], wanted: Sequence[str] = FIGURES
) -> Iterator[tuple[str, Figure]]:
    """The figures of all layers, by the name of their file."""
    paths = list(statistics.layers)
    for name, streams in RANGES.items():
        own = [path for path in paths if streams in ("all", stream(path))]
        if name in wanted and own:
            yield name, range_vs_timestep(statistics, found, own)
    for name, draw in OVERVIEWS.items():
        if name in wanted:
            yield name, draw(statistics, paths)


def of_layer(
    statistics: ActivationStatistics, found: dict[str, Any], path: str, wanted: Sequence[str] = FIGURES
) -> Iterator[tuple[str, Figure]]:
    """The figures of one layer, by the name of their file: <figure>_<label>."""
    entry = {**found["layers"][path], "bits": found["bits"]}
    for name, draw in PER_LAYER.items():
        if name in wanted:
            yield f"{name}_{label(path)}", draw(statistics, entry, path)
