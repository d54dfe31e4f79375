"""The baseline of every calibrated checkpoint: round-to-nearest on the same activation grids."""

import mlx.core as mx

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint import QuantizedCheckpoint
from ditq.core import affine
from ditq.core.quantized import QuantizedWeight
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.models.base import Network, TextToImage


def layer_specs(network: Network, grids: Spec | Recipe) -> dict[str, Spec]:
    """The grid of every layer that `grids` quantizes, by path: one grid for all layers of the blocks, or a recipe's."""
    anatomy = network.anatomy
    if isinstance(grids, Spec):
        return dict.fromkeys(anatomy.paths("block"), grids)
    rules = grids.assign([anatomy.site(path) for path in anatomy.modules(network)])
    return {path: rule.spec for path, rule in rules.items() if rule.spec is not None}


def rounded(
    model: TextToImage, grids: Spec | Recipe, table: ActivationTable | None = None, search: bool = True
) -> QuantizedCheckpoint:
    """The layers of `grids` rounded to nearest, after the table's smoothing factors where it has some.

    `search` takes the range of least squared error for each scale, else the smallest range that holds all weights.
    """
    network, weights = model.network(), {}
    modules = network.anatomy.modules(network)
    for path, spec in layer_specs(network, grids).items():
        layer, channels = modules[path], capture.channels(modules[path])
        grid = table.grids.get(path) if table is not None else None
        smooth = None if grid is None else grid.smooth
        weight = capture.matrix(layer).astype(mx.float32)
        network.anatomy.site(path).check_groups(spec, channels)
        if smooth is not None:
            weight = (weight.reshape(len(weight), -1, channels) * smooth).reshape(weight.shape)
        weights[path] = QuantizedWeight(*affine.round_to_nearest(weight, spec, search), spec, smooth)
    meta = {"method": "rtn", "search": search}
    return QuantizedCheckpoint(model.name, weights, table, meta)
