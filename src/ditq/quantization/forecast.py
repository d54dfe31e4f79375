"""What a run of a recipe will take, told before anything is loaded: passes, memory, disk and a rough time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ditq.calibration.block_caching import sample_bytes
from ditq.capture import linears
from ditq.core.recipe import Recipe
from ditq.models.base import TextToImage
from ditq.models.cost import matmul_rate, step_flops
from ditq.models.mmdit import MMDiT
from ditq.quantization.driver import Assigned, assigned
from ditq.weights import AdaRound
from ditq.weights.cost import COPIES, PER_WEIGHT
from ditq.weights.layerwise import ParallelGPTQ, SequentialGPTQ, SequentialQronos, shared_inputs, stages

PASSES = {ParallelGPTQ: 1, SequentialGPTQ: 4, SequentialQronos: 8}
"""Runs of a block over all rows, of both streams and all stages."""
RUNGS = 4
"""Of the damping's ladder that are usually tried; each factors the Hessian."""


@dataclass(frozen=True)
class Forecast:
    """Numbers of a run; bytes and seconds."""

    layers: dict[str, int]
    """By method."""
    rows: int
    memory: int
    """Streams of a block and Hessians, beside the transformer."""
    cache: int
    """Of the blocks' streams on disk, removed at the end."""
    checkpoint: int
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


def forecast(model: TextToImage, recipe: Recipe, meta: Mapping[str, Any]) -> Forecast:
    """The forecast for a model of this shape with a cache that `meta` describes; no weights are loaded."""
    mmdit = MMDiT(model.config)  # its arrays are lazy and never made
    todo = assigned(mmdit, recipe)
    rows = len(meta["samples"]) * meta["rows_per_sample"]
    tokens, hidden = meta["image_tokens"] + meta["text_tokens"], meta["hidden"]
    streams = rows * tokens * hidden * 4
    names = [rule.method for rule in todo.rules.values()]
    shapes = {path: layer.weight.shape for path, layer in linears(mmdit).items()}
    block_flops = step_flops(model.config, rows, meta["image_tokens"], meta["text_tokens"]) / meta["blocks"]
    # every block runs once to fill the cache and once to hand on
    flops, fixed, hessians = 2 * meta["blocks"] * block_flops, 0.0, 0.0
    for paths in todo.blocks.values():
        costs = _block_cost(todo, paths, shapes, rows, meta, block_flops)
        flops, fixed, hessians = flops + costs[0], fixed + costs[1], max(hessians, costs[2])
    size = 0.0
    for path, shape in shapes.items():
        weights = shape[0] * shape[1]
        spec = todo.rules[path].spec if path in todo.rules else None
        size += weights * (16 if spec is None else spec.bits + 64 / (spec.group_size or 128)) / 8
    return Forecast(
        layers={name: names.count(name) for name in dict.fromkeys(names)},
        rows=rows,
        memory=round(4 * streams + hessians),
        cache=len(meta["samples"]) * sample_bytes(meta),
        checkpoint=round(size),
        seconds=flops / matmul_rate() + fixed,
    )


def _block_cost(
    todo: Assigned,
    paths: list[str],
    shapes: Mapping[str, tuple[int, ...]],
    rows: int,
    meta: Mapping[str, Any],
    block_flops: float,
) -> tuple[float, float, float]:
    """Operations, seconds besides them, and bytes of Hessians, of one block."""
    flops = fixed = hessians = 0.0
    for name in dict.fromkeys(todo.rules[path].method for path in paths):
        method = todo.methods[name]
        own = [path for path in paths if todo.rules[path].method == name]
        if isinstance(method, AdaRound):
            batch = min(method.batch_size, rows)
            flops += 3 * method.iterations * block_flops * batch / rows
            device = "cpu" if mx.default_device().type == mx.DeviceType.cpu else "gpu"
            weights = sum(shapes[path][0] * shapes[path][1] for path in own)
            fixed += method.iterations * weights * PER_WEIGHT[device]
            hessians += COPIES * 4 * weights
        elif type(method) in PASSES:
            flops += PASSES[type(method)] * block_flops
            parts = [own] if isinstance(method, ParallelGPTQ) else stages(own)
            held = [sum(_moments(group, shapes, method) for group in shared_inputs(part)) for part in parts]
            hessians += max(held)
            for group in shared_inputs(own):
                columns, outputs = shapes[group[0]][1], sum(shapes[path][0] for path in group)
                tokens = meta["text_tokens" if ".text_transformer_block." in group[0] else "image_tokens"]
                flops += rows * tokens * columns**2 * (3 if isinstance(method, SequentialQronos) else 1)
                flops += RUNGS * (columns**3 / 3 + columns**2 * 256) + 2 * columns**2 * outputs
    return flops, fixed, hessians


def _moments(group: list[str], shapes: Mapping[str, tuple[int, ...]], method: Any) -> float:
    """Bytes of one input's moments; Qronos has a second matrix."""
    return 4.0 * shapes[group[0]][1] ** 2 * (2 if isinstance(method, SequentialQronos) else 1)
