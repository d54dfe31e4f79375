"""A model quantized as a recipe says: layer by layer its method and grid, block by block in one pass of the driver."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

import ditq
from ditq.activations import ActivationTable
from ditq.calibration import BlockCache, ImageSet
from ditq.calibration.block_cache import Streams
from ditq.capture import linears, swapped
from ditq.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.npz_run.block_file import read_layers, write_layers
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import write_json
from ditq.core.quantized import QuantizedWeight
from ditq.core.recipe import FLOAT, Recipe, Rule
from ditq.diagnostics import block_linears
from ditq.models.base import TextToImage
from ditq.models.mmdit import MMDiT
from ditq.quantization.blocks import BLOCK, OnBlock, OnIteration, cache_digest, through_blocks
from ditq.quantization.report import report_of, summary_of
from ditq.weights import METHODS, BlockProblem, Method, Mixed, built, embedders
from ditq.weights.mixed import dequantized
from ditq.weights.problem import NO_BITS
from ditq.weights.quantized_block import batches

KIND, VERSION = "ditq.recipe_run", 1
CONTENTS = ("plan.json", "weights", "report.json")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""
Layers = dict[str, QuantizedWeight]


@dataclass(frozen=True)
class Calibration:
    """What a run knows of the model's data."""

    images: ImageSet
    """Recorded pictures, for what the text encoders gave."""
    cache: BlockCache
    """The blocks' inputs and outputs at some of their steps."""
    table: ActivationTable | None = None
    """Grids and smoothing factors of the activations; None: activations stay as they are."""
    table_digest: str = ""
    """Stands for the table in the plan."""


@dataclass(frozen=True)
class Assigned:
    """A recipe applied to the layers of one model."""

    rules: Mapping[str, Rule]
    """Of the quantized layers, by path."""
    methods: Mapping[str, Method]
    """By name."""
    blocks: Mapping[str, list[str]] = field(default_factory=dict)
    """The quantized layers of each block's attentions and MLPs, by the block's path."""

    def asked(self, paths: list[str]) -> embedders.Asked:
        """Method and grid of those of the paths that are quantized."""
        rules = {path: self.rules[path] for path in paths if path in self.rules}
        return {path: (self.methods[r.method], r.spec) for path, r in rules.items() if r.spec is not None}


def assigned(mmdit: MMDiT, recipe: Recipe) -> Assigned:
    """The rule of every layer that the recipe quantizes, all of it checked; nothing is computed.

    Raises UserError, naming recipe and layer, for unknown methods and fields, for groups that do not divide, and for a
    method that cannot do what is asked.
    """
    where = f"recipe {recipe.name}"
    modules = linears(mmdit)
    rules = {path: rule for path, rule in recipe.assign(modules).items() if rule.method != FLOAT}
    named = dict.fromkeys([*recipe.methods, *(rule.method for rule in rules.values())])
    methods = {name: built(METHODS, name, recipe.methods.get(name, {}), where) for name in named}
    inner, blocks = set(block_linears(mmdit)), dict[str, list[str]]()
    for path, rule in rules.items():
        if rule.spec is not None:
            rule.spec.groups(modules[path].weight.shape[1], f"{where}: {path}")
        if path in inner:
            blocks.setdefault(".".join(path.split(".")[:2]), []).append(path)
    found = Assigned(rules, methods, blocks)
    embedders.check(found.asked([path for path in rules if path not in inner]))
    if not rules:
        raise UserError(where, got="no layer that is quantized", expected="one at least")
    return found


def quantize(
    model: TextToImage,
    recipe: Recipe,
    calibration: Calibration,
    folder: Path,
    resume: bool = False,
    seed: int = 0,
    on_iteration: OnIteration = lambda block, iteration, loss: None,
    on_block: OnBlock = lambda block, report: None,
) -> QuantizedCheckpoint:
    """The model's quantized checkpoint; `folder` keeps every finished block, and report.json a line per layer.

    First the layers that the conditioning passes through, then block after block, then the last projection: each sees
    what the ones before it have become. A resumed run passes over what is finished and gives bit for bit the same.
    Raises UserError for a recipe that does not fit, and for a folder begun with another recipe, model or calibration.
    """
    mmdit, cache = model.transformer(), calibration.cache
    cache.check_model(mmdit)
    todo = assigned(mmdit, recipe)
    begun = {
        "kind": KIND,
        "version": VERSION,
        "model": model.name,
        "calibration": calibration.images.digest,
        "cache": cache_digest(cache),
        "activations": calibration.table_digest or None,
        "seed": seed,
        "recipe": recipe.to_json(),
    }
    plan.begin(folder / "plan.json", begun, resume)
    before, told = _kept(folder / "weights" / "before.npz", partial(_before, mmdit, todo, calibration))
    problem_of = partial(_problem, mmdit, todo, calibration, before, seed)
    methods = {
        number: Mixed(
            todo.methods, {path: todo.rules[path].method for path in todo.blocks[BLOCK.format(number)]}
        )
        for number in range(cache.blocks)
        if BLOCK.format(number) in todo.blocks
    }
    whole = embedders.LAST in todo.rules
    count = cache.blocks if whole else max(methods, default=-1) + 1
    first = _first_streams(mmdit, before, calibration) if embedders.TEXT in before else None
    run = through_blocks(cache, methods, problem_of, folder, count, first, on_iteration, on_block)
    after, told_after = {}, {}
    if whole:
        solve = partial(_after, mmdit, todo, cache, before, run.handed_on)
        after, told_after = _kept(folder / "weights" / "after.npz", solve)
    weights = {**before, **run.weights, **after}
    report = report_of(mmdit, todo.rules, weights, {**told, **told_after}, run.reports)
    write_json(folder / "report.json", report)
    meta = {
        "recipe": recipe.name,
        "about": recipe.about,
        "producer": f"ditq {ditq.__version__}",
        **summary_of(report),
    }
    ordered = {path: weights[path] for path in todo.rules}
    return QuantizedCheckpoint(model.name, ordered, calibration.table, meta)


def _kept(path: Path, solve: Any) -> tuple[Layers, dict[str, Any]]:
    """What `solve()` gives, or what an earlier run kept of it."""
    if path.exists():
        weights, _, meta = read_layers(path)
        return weights, meta["report"]
    weights, report = solve()
    write_layers(path, weights, {}, {"report": report})
    return weights, report


def _before(mmdit: MMDiT, todo: Assigned, calibration: Calibration) -> tuple[Layers, dict[str, Any]]:
    """The layers that conditioning and text pass through."""
    cache, images = calibration.cache, calibration.images
    asked = todo.asked([path for path in linears(mmdit) if path not in (embedders.TEXT, embedders.LAST)])
    inner = {path for paths in todo.blocks.values() for path in paths}
    asked = {path: own for path, own in asked.items() if path not in inner}
    pooled, timesteps = mx.array(cache.pooled), mx.array(cache.timesteps)
    solved, reports = embedders.condition_layers(mmdit, asked, pooled, timesteps)
    chosen = list(dict.fromkeys(image for image, _ in cache.samples))
    tokens = images.conditioning(chosen).tokens.astype(mx.float32)
    of_text, text_report = embedders.text_layer(mmdit, todo.asked([embedders.TEXT]), tokens)
    return {**solved, **of_text}, {**reports, **text_report}


def _first_streams(mmdit: MMDiT, before: Layers, calibration: Calibration) -> Streams:
    """What enters the first block when the context embedder is quantized."""
    cache, images = calibration.cache, calibration.images
    embed = dequantized(mmdit, {embedders.TEXT: before[embedders.TEXT]})[embedders.TEXT]
    chosen = list(dict.fromkeys(image for image, _ in cache.samples))
    text = {image: embed(images.conditioning([image]).tokens.astype(mx.float32)) for image in chosen}
    rows = mx.concatenate([text[image] for image, _ in cache.samples])
    return Streams(cache.streams(0).image, rows)


def _problem(
    mmdit: MMDiT,
    todo: Assigned,
    calibration: Calibration,
    before: Layers,
    seed: int,
    number: int,
    inputs: Streams,
    quantized_inputs: Streams,
    targets: Streams,
) -> BlockProblem:
    cache, path = calibration.cache, BLOCK.format(number)
    modulation = cache.modulation(mmdit, number)
    specs = {layer: todo.rules[layer].spec for layer in todo.blocks.get(path, [])}
    problem = BlockProblem(
        block=mmdit.multimodal_transformer_blocks[number],
        path=path,
        modulation=modulation,
        inputs=inputs,
        quantized_inputs=quantized_inputs,
        targets=targets,
        timesteps=cache.timesteps,
        specs={layer: spec for layer, spec in specs.items() if spec is not None},
        activation_bits=NO_BITS,
        table=calibration.table,
        seed=seed + number,
    )
    if not before:
        return problem
    with swapped(mmdit, dequantized(mmdit, before)):
        there = cache.modulation(mmdit, number)
        mx.eval(there)
    return replace(problem, modulation=there, float_modulation=modulation)


def _after(
    mmdit: MMDiT, todo: Assigned, cache: BlockCache, before: Layers, handed_on: Streams
) -> tuple[Layers, dict[str, Any]]:
    """The projection to patches, from both streams behind the last block."""
    pooled, timesteps = mx.array(cache.pooled), mx.array(cache.timesteps)

    def stream(image: mx.array, layers: Layers) -> Iterator[tuple[mx.array, mx.array]]:
        with swapped(mmdit, dequantized(mmdit, layers)):
            condition = mmdit.condition(pooled, timesteps)
            mx.eval(condition)
        for rows in batches(np.arange(len(cache))):
            yield image[mx.array(rows)], condition[mx.array(rows)]

    image = cache.streams(cache.blocks).image
    return embedders.last_layer(
        mmdit,
        todo.asked([embedders.LAST]),
        before,
        lambda: stream(image, {}),
        lambda: stream(handed_on.image, before),
    )
