"""What a run of a recipe will take, told before any weight is loaded: each method says its own cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from ditq import capture
from ditq.activations import ActivationTable
from ditq.calibration.block_caching import sample_bytes
from ditq.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.mlx_folder.size import folder_bytes
from ditq.checkpoint.mlx_folder.stored import Layout
from ditq.core import packing
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.models.base import Network, TextToImage
from ditq.models.cost import layer_inputs, matmul_rate
from ditq.quantization.assignment import Assigned, assigned
from ditq.quantization.tuning import tuning_cost, tuning_of
from ditq.weights.cost import Cost, Work, block_work


@dataclass(frozen=True)
class Forecast:
    """Numbers of a run; bytes and seconds."""

    layers: dict[str, int]
    """By method."""
    blocks: int
    """Those with quantized layers."""
    rows: int
    memory: int
    """States between blocks and what methods hold, beside the network."""
    cache: int
    """Of the block cache on disk, removed at the end."""
    codes: int
    """Of the npz files that a run keeps of its blocks."""
    checkpoint: int
    """Of its folder's files."""
    seconds: float

    @property
    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "layers": self.layers,
            "rows": self.rows,
            "memory_bytes": self.memory,
            "cache_bytes": self.cache,
            "checkpoint_bytes": self.checkpoint,
            "seconds": round(self.seconds, 1),
        }


def forecast(model: TextToImage, recipe: Recipe, meta: Mapping[str, Any], grid_steps: int = 0) -> Forecast:
    """The forecast for a model of this shape with a block cache that `meta` describes; no weights are loaded.

    `grid_steps` are the steps at which the activations get grids; 0: they stay as they are.
    """
    network = model.skeleton()
    todo = assigned(network, recipe)
    layers = network.anatomy.modules(network)
    rows = len(meta["samples"]) * meta["rows_per_sample"]
    height, width = meta["latents"]
    block_flops = network.step_flops(rows, height, width, model.geometry.text_tokens) / meta["blocks"]
    works = _works(model, network, todo, rows, block_flops, height, width)
    costs = [method.cost(work) for path, work in works.items() if (method := todo.method(path))]
    # every block runs once to fill the cache and once to hand on
    if tuning := tuning_of(recipe.tuning, f"recipe {recipe.name}"):
        row = network.step_flops(1, height, width, model.geometry.text_tokens)
        costs.append(tuning_cost(tuning, meta, row, sum(capture.matrix(one).size for one in layers.values())))
    total = sum(costs, Cost(2 * meta["blocks"] * block_flops))
    state = max(sum(prod(shape) for shape in new.values()) for new in meta["states"])
    specs = {path: rule.spec for path, rule in todo.rules.items() if rule.spec is not None}
    names = [rule.method for rule in todo.rules.values()]
    return Forecast(
        layers={name: names.count(name) for name in dict.fromkeys(names)},
        blocks=len(works),
        rows=rows,
        memory=round(4 * 4 * rows * state + max((cost.memory for cost in costs), default=0.0)),
        cache=len(meta["samples"]) * sample_bytes(meta),
        codes=sum(_codes(layers[path], specs[path]) for path in specs),
        checkpoint=folder_of(model, network, specs, grid_steps),
        seconds=total.flops / matmul_rate() + total.seconds,
    )


def _works(
    model: TextToImage,
    network: Network,
    todo: Assigned,
    rows: int,
    flops: float,
    height: int,
    width: int,
) -> dict[str, Work]:
    """The work of each block that has quantized layers, by path."""
    layers = network.anatomy.modules(network)
    shapes = layer_inputs(network, model.geometry, height, width)

    def positions(path: str) -> int:
        return prod(capture.patches(layers[path], mx.zeros(shapes[path])).shape[:-1])

    found = {}
    for block in network.anatomy.blocks:
        own = {path: layers[path] for path in todo.specs(block)}
        if own:
            found[block] = block_work(network.anatomy, own, rows, flops, positions)
    return found


def _codes(layer: capture.Layer, spec: Spec) -> int:
    """Bytes of a layer's codes, a byte each, and of its scales."""
    out, columns = capture.matrix(layer).shape
    return out * columns + 4 * out * columns // (spec.group_size or columns)


def folder_of(model: TextToImage, network: Network, specs: Mapping[str, Spec], grid_steps: int) -> int:
    """Bytes of the checkpoint's folder; layers that MLX cannot pack, which no folder holds, count as in 16 bits."""
    layers, layouts = network.anatomy.modules(network), {}
    for path, spec in specs.items():
        columns = capture.matrix(layers[path]).shape[1]
        if packing.is_storable(spec, columns):
            layouts[path] = Layout.on(spec, columns, path)
    table = None
    if grid_steps:
        steps, ones = np.linspace(1000, 1, grid_steps), mx.ones((grid_steps,))
        grid = TimestepGrid(steps, GridRows(ones, -8 * ones, 7 * ones))
        table = ActivationTable(steps, dict.fromkeys(network.anatomy.paths("block"), grid))
    return folder_bytes(network, QuantizedCheckpoint(model.name, {}, table), layouts)
