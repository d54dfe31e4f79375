"""From recorded pictures to what `quantize` is given: the blocks' cache, and grids of the activations if asked for."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ditq import capture
from ditq.activations import (
    ActivationMethod,
    ActivationTable,
    SearchedGrids,
    method_for,
    read_quant_config,
    write_quant_config,
)
from ditq.calibration import CacheRecipe, ImageSet, cache_blocks, read_block_cache
from ditq.calibration.block_caching import batches, cache_meta
from ditq.calibration.cache_cost import cache_cost
from ditq.core import plan
from ditq.core.cost import Cost
from ditq.core.errors import UserError
from ditq.core.files import read_text
from ditq.core.recipe import Recipe
from ditq.core.spec import Spec
from ditq.diagnostics import (
    InputRecipe,
    collect_forecast,
    collect_inputs,
    damage_cost,
    measure_damage,
    read_layer_statistics,
)
from ditq.diagnostics.layer_files import MANIFEST
from ditq.models.base import TextToImage
from ditq.quantization.amounts import amounts_for
from ditq.quantization.calibration import Calibration

CACHE, ACTIVATIONS = "cache", "activations"
"""Folders of the two, in the folder of a run."""
OnUnit = Callable[[str, int, int], None]
"""Receives what is going on, how many more units of it are finished, and how many there are in all."""


@dataclass(frozen=True)
class CalibrationAmounts:
    """How much of the recorded pictures is used."""

    num_images: int = 5
    """For the blocks' cache."""
    stride: int = 5
    """Every so many steps of those, from the first on."""
    batch_size: int = 1
    storage_dtype: str = "float16"
    """Of the cached streams on disk."""
    statistics_images: int = 5
    """For the statistics of the activations."""
    statistics_stride: int = 2

    def as_json(self) -> dict[str, Any]:
        """As plans keep them."""
        return asdict(self)

    @property
    def cache(self) -> CacheRecipe:
        """For the blocks' cache."""
        return CacheRecipe(self.num_images, self.stride, self.storage_dtype, self.batch_size)

    @property
    def inputs(self) -> InputRecipe:
        """For the statistics of the activations: more steps of fewer pictures, since each step has grids of its own."""
        return InputRecipe(self.statistics_images, self.statistics_stride, self.batch_size)


def calibration_amounts(model: str, available: int) -> CalibrationAmounts:
    """The amounts for a model of which so many pictures are recorded."""
    usual = amounts_for(model)
    return CalibrationAmounts(
        min(usual.cache_images, available),
        usual.cache_stride,
        usual.batch_size,
        statistics_images=min(usual.statistics_images, available),
        statistics_stride=usual.statistics_stride,
    )


def activation_method(recipe: Recipe) -> ActivationMethod | None:
    """The method that a recipe names for the activations; smoothing is judged on the grid of its last line."""
    specs = [rule.spec for rule in recipe.rules if rule.spec is not None]
    return method_for(recipe.activations, specs[-1] if specs else Spec(8), f"recipe {recipe.name}")


def calibrated(
    model: TextToImage,
    images: ImageSet,
    recipe: Recipe,
    amounts: CalibrationAmounts,
    folder: Path,
    on_unit: OnUnit = lambda what, count, total: None,
) -> Calibration:
    """The calibration of a recipe; what an earlier run made of it in `folder` is kept and gone on with.

    Raises UserError for pictures of another model, and for a folder begun with other settings.
    """
    method = activation_method(recipe)
    samples = len(amounts.cache.samples(images))
    cache_blocks(
        model,
        images,
        amounts.cache,
        folder / CACHE,
        True,
        lambda count: on_unit("block cache", count, samples),
    )
    cache = read_block_cache(folder / CACHE)
    if method is None:
        return Calibration(images, cache)
    config = folder / ACTIVATIONS / "quant_config.json"
    table = _kept_table(config)
    if table is None:
        _decide(model, images, recipe, amounts, method, config, on_unit)
        table = read_quant_config(config)
    return Calibration(images, cache, table, plan.digest(read_text(config)))


def calibration_cost(
    model: TextToImage, images: ImageSet, recipe: Recipe, amounts: CalibrationAmounts
) -> Cost:
    """What `calibrated` takes from the beginning."""
    meta = cache_meta(model, images, amounts.cache)
    total = cache_cost(meta, len(batches(meta)), len(meta["samples"]))
    method = activation_method(recipe)
    if method is None:
        return total
    told = collect_forecast(model, images, amounts.inputs)
    if isinstance(method, SearchedGrids) and method.measure is not None:
        total += damage_cost(model, images, method.measure)
    return total + told.cost + method.cost(told.inputs, told.steps)


def _kept_table(config: Path) -> ActivationTable | None:
    """The grids that an earlier run decided on; None where there are none, or their files are lost or cut off."""
    if not config.exists():
        return None
    try:
        return read_quant_config(config)
    except UserError as error:
        warnings.warn(f"{error}; the grids are decided on again", stacklevel=3)
        return None


def _decide(
    model: TextToImage,
    images: ImageSet,
    recipe: Recipe,
    amounts: CalibrationAmounts,
    method: ActivationMethod,
    config: Path,
    on_unit: OnUnit,
) -> None:
    wanted = amounts.inputs
    forwards = wanted.num_images * len(range(0, len(images.sigmas), wanted.stride))
    collect_inputs(
        model, images, wanted, config.parent, True, lambda count: on_unit("activations", count, forwards)
    )
    statistics = read_layer_statistics(config.parent / MANIFEST)
    if isinstance(method, SearchedGrids) and method.measure is not None:
        passes = method.measure.passes(images)
        damage = measure_damage(
            model,
            images,
            method.measure,
            config.parent / "damage.npz",
            True,
            lambda count: on_unit("damage", count, passes),
        )
        method = method.by_damage(damage)
    network = model.network()
    layers = network.anatomy.modules(network)
    decision = method.decide(
        statistics,
        lambda paths: {path: capture.matrix(layers[path]) for path in paths},
        lambda: on_unit("analysis", 1, len(statistics.steps)),
    )
    write_quant_config(config, statistics, decision, {"method": {"recipe": recipe.activations}})
