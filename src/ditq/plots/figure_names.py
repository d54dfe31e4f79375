"""The figures of Phase 2 by name; importing this loads no matplotlib."""

RANGES = {f"range_vs_timestep_{name}": name for name in ("all", "image", "text")}
"""Drawn of these streams; one that no layer belongs to has no figure."""
OVERVIEWS = ("heatmap_mean", "heatmap_std", "negative_fraction_heatmap")
"""Drawn of all layers."""
PER_LAYER = ("histogram", "ridge", "channel_ranges", "channel_heatmap", "weight_ranges", "levels")
"""Drawn of each layer."""
FIGURES = [*RANGES, *OVERVIEWS, *PER_LAYER]
