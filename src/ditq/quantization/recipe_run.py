"""A model quantized as a recipe says: the run's folder, and the checkpoint that comes out."""

from dataclasses import replace
from pathlib import Path

import ditq
from ditq.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.origin import Origin
from ditq.core.errors import UserError
from ditq.core.files import write_json
from ditq.core.recipe import Recipe
from ditq.models.base import TextToImage
from ditq.quantization.assignment import assigned
from ditq.quantization.calibration import Calibration
from ditq.quantization.driver import OnBlock, OnIteration, quantize_network
from ditq.quantization.report import report_of, summary_of
from ditq.quantization.run_plan import begin_run
from ditq.quantization.tuning import OnStep, Tuner, tuning_of

KIND, VERSION = "ditq.recipe_run", 1
CONTENTS = ("plan.json", "weights", "report.json")
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


def quantize(
    model: TextToImage,
    recipe: Recipe,
    calibration: Calibration,
    folder: Path,
    resume: bool = False,
    seed: int = 0,
    on_iteration: OnIteration = lambda block, iteration, loss: None,
    on_block: OnBlock = lambda block, report: None,
    on_tuning: OnStep = lambda step, loss: None,
) -> QuantizedCheckpoint:
    """The model's quantized checkpoint; `folder` keeps every finished part, and report.json a line per layer.

    A resumed run passes over what is finished and gives bit for bit the same. Raises UserError for a recipe that does
    not fit, and for a folder begun with another recipe, model or calibration.
    """
    network = model.network()
    calibration.cache.check_model(network)
    todo = assigned(network, recipe)
    tuning = tuning_of(recipe.tuning, f"recipe {recipe.name}")
    if (tuning or todo.phase("prepare", "begin")) and calibration.images is None:
        raise UserError(
            f"recipe {recipe.name}", got="no recorded pictures", expected="those of the block cache"
        )
    begin_run(
        folder / "plan.json", _plan(model, recipe, calibration, seed), network, calibration.cache, resume
    )
    found = quantize_network(
        network, todo, calibration, folder, seed, on_iteration=on_iteration, on_block=on_block
    )
    told = {}
    if tuning is not None and calibration.images is not None:
        chosen = list(dict.fromkeys(image for image, _ in calibration.cache.samples))
        tuner = Tuner(network, found.weights, calibration.table, calibration.images, chosen, tuning, seed)
        tuned, told["tuning"] = tuner.run(folder / "weights" / "tuning.npz", on_tuning)
        found = replace(found, weights=tuned)
    report = {**report_of(network, todo.rules, found), **told}
    write_json(folder / "report.json", report)
    meta = {
        "recipe": recipe.name,
        "about": recipe.about,
        "producer": f"ditq {ditq.__version__}",
        "calibration_prompts": calibration.prompts,
        **summary_of(report),
        **told,
    }
    ordered = {path: found.weights[path] for path in todo.rules}
    return QuantizedCheckpoint(model.name, ordered, calibration.table, meta, Origin.of(network))


def _plan(model: TextToImage, recipe: Recipe, calibration: Calibration, seed: int) -> dict:
    images = calibration.images
    return {
        "kind": KIND,
        "version": VERSION,
        "model": model.name,
        "calibration": None if images is None else images.digest,
        "activations": calibration.table_digest or None,
        "seed": seed,
        "recipe": recipe.to_json(),
    }
