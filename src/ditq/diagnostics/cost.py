"""What a profile will cost, told before the model is loaded."""

import numpy as np

from ditq.calibration import PointSet
from ditq.capture import linears
from ditq.diagnostics.histogram import BINS, wide_edges
from ditq.diagnostics.names import observed_paths
from ditq.diagnostics.profiling import ProfileRecipe
from ditq.models.base import TextToImage
from ditq.models.cost import sampling_seconds
from ditq.models.mmdit import MMDiT

PER_CHANNEL = 6
"""Arrays with one float64 per channel."""


def forecast(model: TextToImage, points: PointSet, recipe: ProfileRecipe) -> str:
    """Layers, timesteps, points, size of the statistics and a rough time, as one line."""
    mmdit = MMDiT(model.config)  # its arrays are lazy and never made
    layers = linears(mmdit)
    paths = observed_paths(mmdit, recipe.inputs)
    rows = np.concatenate(recipe.batches(points))
    steps = len(np.unique(points.ts[rows]))
    channels = sum(layers[path].weight.shape[1] for path in paths)
    size = 8 * steps * (PER_CHANNEL * channels + len(paths) * (BINS + len(wide_edges())))
    seconds = sampling_seconds(model, len(rows), 1, points.cfg_scale > 1, *points.xs.shape[1:3])
    return (
        f"would run {len(rows):,} of {len(points):,} points and observe {len(paths)} layers x {steps} timesteps; "
        f"statistics: {size / 1e6:,.1f} MB, in memory and on disk; {seconds:,.0f} s or more"
    )
