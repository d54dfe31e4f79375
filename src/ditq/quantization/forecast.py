"""What a run of a recipe will take, told before any weight is loaded: each method says its own cost."""

from collections.abc import Callable, Mapping
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
from ditq.core.cost import Cost
from ditq.core.files import npz_size
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.models.base import Network, TextToImage
from ditq.models.cost import block_shares, layer_inputs
from ditq.models.state import BATCH, BATCH_VALUES
from ditq.quantization.assignment import Assigned, assigned
from ditq.quantization.tuning import tuning_cost, tuning_of
from ditq.weights.cost import Work, block_work

READ = 4
"""Float32 states of the rows that run through a block at once: both models' before it, the float one behind it, its
own."""
HANDED_ON = 2
"""States of all rows on disk, in float32: what the quantized blocks before handed on, and what this one does."""
META = 16_000
"""Bytes of a part's report: its losses and errors."""


@dataclass(frozen=True)
class Forecast:
    """Numbers of a run; bytes."""

    layers: dict[str, int]
    """By method."""
    blocks: int
    """Those with quantized layers."""
    rows: int
    cache: int
    """Of the block cache on disk, removed at the end."""
    streams: int
    """Of the nameless files between blocks, while the run goes on."""
    codes: int
    """Of the npz files that a run keeps of its blocks."""
    checkpoint: int
    """Of its folder's files."""
    cost: Cost
    """Of quantizing, without the calibration."""

    @property
    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "layers": self.layers,
            "rows": self.rows,
            "cache_bytes": self.cache,
            "checkpoint_bytes": self.checkpoint,
        }


def forecast(model: TextToImage, recipe: Recipe, meta: Mapping[str, Any], grid_steps: int = 0) -> Forecast:
    """The forecast for a model of this shape with a block cache that `meta` describes; no weights are loaded.

    `grid_steps` are the steps at which the activations get grids; 0: they stay as they are.
    """
    network = model.skeleton()
    todo = assigned(network, recipe)
    layers = network.anatomy.modules(network)
    rows = len(meta["samples"]) * meta["rows_per_sample"]
    works = _works(model, network, todo, rows, *meta["latents"])
    cost = _outside(model, network, todo, rows, *meta["latents"])
    for path, work in works.items():
        if method := todo.method(path):
            cost += method.cost(work) + work.passes(1)
    specs = {path: rule.spec for path, rule in todo.rules.items() if rule.spec is not None}
    codes = npz_size(_codes({path: layers[path] for path in specs}, specs)) + META * len(works)
    state = max(sum(prod(shape) for shape in new.values()) for new in meta["states"])
    at_once = min(rows, max(1, min(BATCH, BATCH_VALUES // state)))
    streams = HANDED_ON * 4 * rows * state
    held = cost.memory + READ * 4 * at_once * state
    cost += Cost(bytes=codes, files=2 + len(works), values=4 * rows * state * len(works), memory=held)
    if tuning := tuning_of(recipe.tuning, f"recipe {recipe.name}"):
        cost += tuning_cost(tuning, meta, sum(capture.matrix(one).size for one in layers.values()))
    names = [rule.method for rule in todo.rules.values()]
    return Forecast(
        layers={name: names.count(name) for name in dict.fromkeys(names)},
        blocks=len(works),
        rows=rows,
        cache=len(meta["samples"]) * sample_bytes(meta),
        streams=streams,
        codes=codes,
        checkpoint=folder_of(model, network, specs, grid_steps),
        cost=cost,
    )


def _works(
    model: TextToImage, network: Network, todo: Assigned, rows: int, height: int, width: int
) -> dict[str, Work]:
    """The work of each block that has quantized layers, by path."""
    layers, shares = network.anatomy.modules(network), block_shares(network, model.geometry, height, width)
    positions, found = _positions(model, network, height, width), {}
    for block in network.anatomy.blocks:
        own = {path: layers[path] for path in todo.specs(block)}
        if own:
            found[block] = block_work(network.anatomy, own, rows, shares[block], positions)
    return found


def _outside(
    model: TextToImage, network: Network, todo: Assigned, rows: int, height: int, width: int
) -> Cost:
    """The layers outside the blocks, whose passes are negligible beside the blocks'."""
    layers, total = network.anatomy.modules(network), Cost()
    asked = todo.phase("prepare", "begin", "finish")
    positions = _positions(model, network, height, width)
    for method in dict.fromkeys(method for method, _ in asked.values()):
        own = {path: layers[path] for path, (other, _) in asked.items() if other == method}
        total += method.cost(block_work(network.anatomy, own, rows, 0.0, positions))
    return total


def _positions(model: TextToImage, network: Network, height: int, width: int) -> Callable[[str], int]:
    layers, shapes = (
        network.anatomy.modules(network),
        layer_inputs(network, model.geometry, height, width),
    )
    return lambda path: prod(capture.patches(layers[path], mx.zeros(shapes[path])).shape[:-1])


def _codes(
    layers: Mapping[str, capture.Layer], specs: Mapping[str, Spec]
) -> dict[str, tuple[tuple[int, ...], int]]:
    """Shape and bytes of a value of each array that a run keeps of its layers."""
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    for path, layer in layers.items():
        out, columns = capture.matrix(layer).shape
        groups = columns // (specs[path].group_size or columns)
        found |= {f"{path}__weight_int": ((out, columns), 1), f"{path}__scale": ((out, groups), 4)}
        found |= {} if specs[path].symmetric else {f"{path}__zero": ((out, groups), 4)}
    return found


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
