"""Whatever is changed in a stored artefact: a clear error, or what a sound file of its kind would give."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ditq.activations import ActivationTable, read_quant_config
from ditq.activations.table import check_timesteps
from ditq.checkpoint import outline_of_folder, read_folder, write_folder
from ditq.checkpoint.mlx_folder.stored import table_from
from ditq.checkpoint.npz_run.block_file import read_layers, write_layers
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import DitqError, UserError
from ditq.core.files import read_npz, write_npz
from ditq.core.recipe import plain_recipe, presets, read_recipe, recipe_from
from ditq.core.spec import Spec
from ditq.models import load
from ditq.quantization import assigned
from ditq.quantization.preparation import activation_method
from tests.activations.test_quant_config import written as quant_config
from tests.checkpoint.npz_run.test_block_file import static_grid, weight
from tests.checkpoint.small import TIMESTEPS, checkpoint, model
from tests.core.mutations import array_mutations, json_mutations


def sound(table: ActivationTable) -> None:
    """What is accepted could have been written."""
    check_timesteps(table.timesteps, "accepted")
    for path, grid in table.grids.items():
        assert isinstance(grid, TimestepGrid)
        grid.rows.check(path)
        assert grid.smooth is None or (np.array(grid.smooth) > 0).all()


def tried(name: str, read, *given) -> bool:
    """Whether `read(*given)` is refused; a message names its file."""
    try:
        read(*given)
    except UserError as error:
        assert name in str(error), error
        return True
    except DitqError as error:
        pytest.fail(f"no user's error: {error}")
    return False


def table_of(path) -> None:
    sound(read_quant_config(path))


def test_quant_configs(tmp_path):
    path, _, _ = quant_config(tmp_path)
    content, rng = json.loads(path.read_text()), np.random.default_rng(1)
    for name in ("outliers", "shifts", "summary", "images"):
        content.pop(name, None)  # nothing reads them back
    refused = 0
    for _, changed in json_mutations(content, rng, 120):
        path.write_text(json.dumps(changed))
        refused += tried("quant_config", table_of, path)
    assert refused > 70


def test_arrays_of_quant_configs(tmp_path):
    path, _, _ = quant_config(tmp_path)
    companion = path.with_suffix(".npz")
    arrays = read_npz(companion)
    for what, changed in array_mutations(arrays, np.random.default_rng(2), 40):
        write_npz(companion, changed)
        same = changed.keys() == arrays.keys() and all(
            np.array_equal(changed[n], a) for n, a in arrays.items()
        )
        assert tried("quant_config.npz", table_of, path) or same, what


@pytest.mark.parametrize("spec", [Spec(4), Spec(4, False, 32)])
def test_blocks(tmp_path, spec):
    path = tmp_path / "mm0.npz"
    write_layers(path, {"a.fc1": weight(spec, True)}, {"a.fc1": static_grid(0.25, -1.5, 6)}, {"report": {}})
    arrays, rng, refused = read_npz(path), np.random.default_rng(3), 0
    for _, changed in array_mutations(arrays, rng, 80):
        write_npz(path, changed)
        refused += tried("mm0.npz", block_of, path)
    assert refused > 40
    meta = json.loads(str(arrays["__meta__"]))
    for _, changed in json_mutations(meta, rng, 40):
        write_npz(path, {**arrays, "__meta__": np.array(json.dumps(changed))})
        tried("mm0.npz", block_of, path)


def block_of(path) -> None:
    weights, grids, _ = read_layers(path, 6)
    for layer, found in weights.items():
        found.check(layer)
    sound(ActivationTable(np.array([500], np.float32), dict(grids)))


def test_tables_of_folders():
    rows = GridRows.of([8, 4], np.array([0.1, 0.2], np.float32), np.ones((2, 3), np.float32))
    arrays = {"timesteps": np.array([900, 100], np.float32)}
    arrays |= {f"fc1::{part}": np.array(getattr(rows, part)) for part in ("scale", "qmin", "qmax", "shift")}
    mutations = array_mutations(arrays, np.random.default_rng(4), 250)
    assert (
        sum(tried("a.npz", lambda one: sound(table_from(one, {}, "a.npz")), one) for _, one in mutations)
        > 150
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    network, path = model(), tmp_path_factory.mktemp("whole")
    parts = checkpoint(network, smooth=True)
    first = {layer: found for layer, found in parts.weights.items() if ".0." in layer}
    assert parts.activations is not None
    grids = {layer: grid for layer, grid in parts.activations.grids.items() if layer in first}
    write_folder(path, network, replace(parts, weights=first, activations=ActivationTable(TIMESTEPS, grids)))
    return path


def test_configs_of_folders(folder, tmp_path):
    copied = Path(shutil.copytree(folder, tmp_path / "copied"))
    content, rng, refused = json.loads((folder / "config.json").read_text()), np.random.default_rng(5), 0
    for _, changed in json_mutations(content, rng, 90):
        (copied / "config.json").write_text(json.dumps(changed))
        refused += tried("copied", outline_of_folder, copied)
    assert refused > 35
    for _, changed in json_mutations(content, rng, 6):  # slower: the weights are read too
        (copied / "config.json").write_text(json.dumps(changed))
        tried("copied", lambda: sound(read_folder(copied).activations or ActivationTable(TIMESTEPS, {})))


def test_recipes():
    rng, refused = np.random.default_rng(6), 0
    contents = [read_recipe(name).to_json() for name in presets()]
    plain = plain_recipe(
        "p", "adaround", Spec(4), {"lr": 0.1, "iterations": 5}, {"bits": "error", "average_bits": 5}
    )
    contents.append(plain.to_json())
    line = {"paths": ["*.fc2"], "method": "gptq", "bits": 6, "group_size": 64, "symmetric": False}
    contents[-1]["layers"].insert(0, line)
    contents[-1]["activations"] |= {"shift_gain": 0.1, "norm": 2.0, "smooth": "foldable", "scale": "max"}
    for content in contents:
        recipe_of(content)
        for _, changed in json_mutations(content, rng, 30):
            refused += tried("mine", recipe_of, changed)
    assert refused > 70


def recipe_of(content) -> None:
    recipe = recipe_from(content, "mine", "mine.json")
    activation_method(recipe)
    for path, rule in assigned(load("mini").skeleton(), recipe).rules.items():
        assert rule.spec is not None and rule.spec.bits in range(2, 9), path
