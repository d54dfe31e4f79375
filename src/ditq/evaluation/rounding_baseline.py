"""What a calibrated checkpoint is measured by: plain rounding, on the same grids of the activations."""

import mlx.core as mx

from ditq.activations import ActivationTable
from ditq.capture import linears
from ditq.checkpoint import QuantizedCheckpoint
from ditq.core import affine
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.diagnostics.names import block_linears
from ditq.models.base import TextToImage


def rounded(
    model: TextToImage, spec: Spec, table: ActivationTable | None = None, search: bool = True
) -> QuantizedCheckpoint:
    """Every linear layer of the blocks rounded to nearest, after the table's smoothing factors where it has some.

    `search` takes the range of least squared error for each scale, else the least range that holds all weights.
    """
    mmdit, weights = model.transformer(), {}
    modules = linears(mmdit)
    for path in block_linears(mmdit):
        grid = table.grids.get(path) if table is not None else None
        smooth = None if grid is None else grid.smooth
        weight = modules[path].weight.astype(mx.float32)
        smoothed = weight if smooth is None else weight * smooth
        weights[path] = QuantizedWeight(*affine.round_to_nearest(smoothed, spec, search), spec, smooth)
    meta = {"method": "rtn", "search": search}
    return QuantizedCheckpoint(model.name, weights, table, meta)
