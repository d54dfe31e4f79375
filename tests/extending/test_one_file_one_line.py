"""One file and one line in a table add a method, a metric or a model: invented ones, from a folder of their own."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ditq import activations, models, weights
from ditq.activations import ActivationTable
from ditq.calibration import read_images
from ditq.checkpoint import QuantizedModel, write_folder
from ditq.cli import benchmark, generate_calibration_data
from ditq.core.files import read_json
from ditq.core.recipe import recipe_from
from ditq.evaluation import metrics
from ditq.models.base import Conditioning
from ditq.nn import clock_of
from ditq.quantization import quantize
from ditq.quantization.preparation import CalibrationAmounts, calibrated
from ditq.sampling.generate import denoised, settings_for

HERE = Path(__file__).parent
RECIPE = {
    "kind": "ditq.recipe",
    "version": 1,
    "layers": [
        {"roles": ["embedder", "head"], "method": "float"},
        {"paths": ["*"], "method": "powers", "bits": 4},
    ],
    "methods": {"powers": {"largest": 2}},
    "activations": {"method": "line", "bits": 7},
}


@pytest.fixture(scope="module")
def invented(tmp_path_factory):
    """The invented modules, imported from a folder outside the repository."""
    folder = tmp_path_factory.mktemp("invented")
    found = {}
    for name in ("toy_family", "invented_weight_method", "invented_activation_method", "invented_metric"):
        path = shutil.copy(HERE / f"{name}.py", folder)
        spec = importlib.util.spec_from_file_location(f"outside_{name}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
        found[name] = module
    return found


@pytest.fixture(scope="module")
def tables(invented):
    """One line each."""
    family = invented["toy_family"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy", family.Toy)
        patch.setitem(models.FAMILIES, "toy", lambda: (family.ToyConfig, family.ToyNetwork))
        patch.setitem(weights.METHODS, "powers", invented["invented_weight_method"].PowersOfTwo)
        patch.setitem(activations.METHODS, "line", invented["invented_activation_method"].Line)
        patch.setitem(metrics.METRICS, "changed", invented["invented_metric"].Changed)
        yield


@pytest.fixture(scope="module")
def quantized(tables, tmp_path_factory):
    """The toy model, its calibration, and its checkpoint by the invented methods."""
    folder = tmp_path_factory.mktemp("run")
    flags = "--model toy --num-images 3 --steps 5 --cfg-weight 3 --batch-size 3 --calib-dir"
    generate_calibration_data.main([*flags.split(), str(folder / "calibration")])
    model, recipe = models.load("toy"), recipe_from(RECIPE, "invented", "recipe.json")
    images, amounts = read_images(folder / "calibration"), CalibrationAmounts(3, 2, 3, "float32")
    calibration = calibrated(model, images, recipe, amounts, folder / "work")
    return model, quantize(model, recipe, calibration, folder / "work" / "quantized")


def test_the_weights_are_those_of_the_invented_method(quantized):
    _, made = quantized
    for weight in made.weights.values():
        assert set(np.unique(np.array(weight.codes))) <= {-2, -1, 0, 1, 2}
    assert made.meta["methods"] == {"powers": len(made.weights)}


def test_the_grids_are_functions_of_the_timestep(quantized, invented):
    """Tabulated at the calibrated timesteps when stored, so that any reader knows them."""
    _, made = quantized
    table = made.activations
    for grid in table.grids.values():
        rows = grid.at(table.timesteps)
        scale, bits = np.array(rows.scale), set(rows.bits)
        line = np.interp(table.timesteps, table.timesteps[[-1, 0]], scale[[-1, 0]])
        assert np.allclose(scale, line, rtol=1e-5) and bits == {7}


def test_pictures_are_drawn_on_them(quantized):
    model, made = quantized
    small = QuantizedModel(model, made)
    settings = settings_for(model, steps=3)
    latents = [next(denoised(one, ["a fox"], [0], settings)) for one in (model, small)]
    error = mx.linalg.norm(latents[0] - latents[1]) / mx.linalg.norm(latents[0])
    assert 0 < error.item() < 2


def test_a_grid_that_is_a_function_runs_at_any_timestep(quantized, invented, tables):
    """In the layer itself, between and beyond what was calibrated."""
    model, made = quantized
    line = invented["invented_activation_method"].LineGrid((999.0, 0.1), (0.0, 0.02), 8)
    grids = dict.fromkeys(made.activations.grids, line)
    network = QuantizedModel(
        model, replace(made, activations=ActivationTable(made.activations.timesteps, grids))
    ).network()
    conditioning = Conditioning(mx.zeros((1, 5, 32)))
    x = mx.ones((1, 8, 8, 4))
    outputs = []
    for timestep in (999.0, 998.5):
        clock_of(network).follow(np.array([timestep]))
        clock_of(network).set(0)
        inputs = network.prepare(conditioning, mx.array([500.0])).at(0)
        outputs.append(np.array(network(x, **inputs)))
    assert not np.array_equal(*outputs)


def test_the_benchmark_computes_the_invented_metric(quantized, tmp_path):
    _, made = quantized
    write_folder(tmp_path / "checkpoint", models.load("toy").network(), made)
    flags = [
        "--model",
        "toy",
        "--checkpoint",
        str(tmp_path / "checkpoint"),
        "--num-images",
        "2",
        "--steps",
        "3",
        *("--num-timed", "1", "--num-flat", "1"),
    ]
    benchmark.main([*flags, "--metrics", "changed", "psnr", "--out", str(tmp_path / "results")])
    report = read_json(tmp_path / "results" / "report.json")
    scores = [variant["scores"]["changed"] for variant in report["variants"]]
    assert all(len(one) == 1 and 0 < one[0] <= 100 for one in scores)
    assert report["reference"]["scores"]["changed"] == [0.0]
    json.dumps(report)
