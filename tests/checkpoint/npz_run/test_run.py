"""What adaround_optimize writes becomes a checkpoint; what is not whole, or smoothed otherwise, is refused by name."""

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ditq import checkpoint as checkpoints
from ditq.activations import ActivationTable
from ditq.checkpoint import QuantizedCheckpoint, read_adaround, read_folder, write_folder
from ditq.checkpoint.npz_run import run as module
from ditq.checkpoint.npz_run.block_file import block_file, static_grid, write_block
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from tests.checkpoint.small import block_layers, checkpoint, model, same, table


def write_adaround(folder, parts: QuantizedCheckpoint, static: bool = True, bits: int = 8) -> None:
    """A finished run's folder with these weights; static grids of step 0.01 (i + 1), every other one shifted."""
    numbers = sorted({int(path.split(".")[1]) for path in parts.weights})
    for number in numbers:
        layers = {p: w for p, w in parts.weights.items() if int(p.split(".")[1]) == number}
        grids = {path: static_grid(0.01 * (i + 1), 0.5 * (i % 2), bits) for i, path in enumerate(layers)}
        write_block(folder, number, layers, grids if static else {}, {"report": {}})
    config = {
        "kind": module.KIND,
        "version": module.VERSION,
        "model": parts.model,
        "blocks": len(numbers),
        "quantized_blocks": numbers,
        "recipe": {"bits_w": 4},
        "bits_a": bits,
    }
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "spec", [Spec(b, s, g) for b in (2, 3, 4, 5, 6, 8) for s, g in ((True, None), (False, 32))], ids=str
)
def test_codes_survive_adaround_checkpoint_folder_checkpoint(tmp_path, spec):
    network = model()
    before = replace(
        checkpoint(network, spec, smooth=True, activations=False), meta={"adaround": {"bits_w": 4}}
    )
    write_adaround(tmp_path / "adaround", before, static=False)
    first = read_adaround(tmp_path / "adaround")
    same(before, first)
    write_folder(tmp_path / "folder", network, first)
    same(before, read_folder(tmp_path / "folder"))


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_learned_steps_become_grids_of_one_row(tmp_path, bits):
    network = model()
    parts = checkpoint(network, smooth=True, activations=False)
    write_adaround(tmp_path, parts, bits=bits)
    found = read_adaround(tmp_path).activations
    assert found is not None and len(found.timesteps) == 1 and found.grids.keys() == parts.weights.keys()
    for number in range(3):
        paths = [path for path in parts.weights if int(path.split(".")[1]) == number]
        for i, path in enumerate(paths):
            grid = found.grids[path]
            rows = grid.rows
            assert np.array_equal(rows.scale, np.array([0.01 * (i + 1)], np.float32))
            assert (rows.qmin.item(), rows.qmax.item()) == (Spec(bits).qmin, Spec(bits).qmax)
            shift = 0.0 if rows.shift is None else rows.shift.item()
            assert shift == 0.5 * (i % 2)
            assert (grid.smooth is None) == (parts.weights[path].smooth is None)
    with checkpoints.injected(network, read_adaround(tmp_path)):
        pass


def test_either_form_is_recognised(tmp_path):
    network = model()
    parts = replace(checkpoint(network, activations=False), meta={"adaround": {"bits_w": 4}})
    write_adaround(tmp_path / "one", parts, static=False)
    write_folder(tmp_path / "two", network, parts)
    same(checkpoints.load(tmp_path / "one"), checkpoints.load(tmp_path / "two"))


# What is refused


@pytest.fixture
def written(tmp_path):
    write_adaround(tmp_path, checkpoint(model(), activations=False))
    return tmp_path


def test_a_missing_block_is_named(written):
    block_file(written, 1).unlink()
    with pytest.raises(UserError, match=r"weights/mm1.npz: got no such file; expected all 3 blocks"):
        read_adaround(written)


def test_an_unfinished_run_is_told(written):
    (written / "config.json").rename(written / "plan.json")
    with pytest.raises(
        UserError, match="got a run that is not finished; finish it: .*adaround_optimize --resume"
    ):
        checkpoints.load(written)


@pytest.mark.parametrize("given", ["work", "work/quantized", "work/cache", "."])
@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_inside_a_run_of_quantize_names_the_one_to_give(tmp_path, monkeypatch, given, finished):
    work = tmp_path / "out" / "work"
    (work / "quantized").mkdir(parents=True)
    (work / "cache").mkdir()
    (work / "plan.json").write_text('{"model": "small", "recipe": {}, "seed": 0, "amounts": {}}')
    (work / "quantized" / "plan.json").write_text('{"kind": "ditq.recipe_run", "version": 1, "recipe": {}}')
    message = "got a run that is not finished; .* finish it: .*quantize --resume"
    if finished:
        write_folder(tmp_path / "out", model(), checkpoint(model(), activations=False))
        message = "got a folder that quantize works in; .* name the folder above: out$"
    monkeypatch.chdir(tmp_path)
    if finished and given == ".":
        checkpoints.load(Path("out"))
        return
    with pytest.raises(UserError, match=message):
        checkpoints.load(Path("out") / given)


def test_the_plan_of_another_step_is_no_unfinished_run(tmp_path):
    (tmp_path / "plan.json").write_text('{"kind": "ditq.evaluation", "model": "small"}')
    with pytest.raises(UserError, match="got another folder; expected a quantized checkpoint; name the"):
        checkpoints.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"kind": "ditq.quant_config", "version": 1},
            "got ditq.quant_config version 1; expected ditq.adaround version 1",
        ),
        (
            {"kind": module.KIND, "version": 9},
            "version 9; expected ditq.adaround version 1, as adaround_opt",
        ),
        ([1, 2], "got None version None"),
    ],
)
def test_another_kind_of_folder_is_refused(written, content, message):
    (written / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        checkpoints.load(written)


def test_a_truncated_block_is_named(written):
    path = block_file(written, 2)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"mm2.npz: got a file that cannot be read"):
        read_adaround(written)


def given_grids(monkeypatch, found: ActivationTable):
    """Stands in for a quant_config.json of these grids."""
    monkeypatch.setattr(module, "read_quant_config", lambda path: found)


def test_a_quant_config_gives_the_grids(written, monkeypatch):
    found = table(model())
    given_grids(monkeypatch, found)
    assert read_adaround(written, written / "quant_config.json").activations is found


def test_a_quant_config_with_other_smoothing_names_layer_and_remedies(written, monkeypatch):
    given_grids(monkeypatch, table(model(), smooth=True))
    message = "k_proj: got smoothing factors of the activation grid alone; .*--quant-config.*--smooth none"
    with pytest.raises(UserError, match=message):
        read_adaround(written, written / "quant_config.json")


def test_a_quant_config_without_factors_on_smoothed_weights_names_them(tmp_path, monkeypatch):
    write_adaround(tmp_path, checkpoint(model(), smooth=True, activations=False))
    given_grids(monkeypatch, table(model()))
    with pytest.raises(UserError, match="k_proj: got smoothing factors of the weight alone"):
        read_adaround(tmp_path, tmp_path / "quant_config.json")


def test_all_layers_of_the_blocks_are_there(written):
    assert read_adaround(written).weights.keys() == block_layers(model()).keys()
    assert all(weight.codes.dtype == mx.int8 for weight in read_adaround(written).weights.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(quantized_blocks=[0, 0, 1]),
            r"quantized_blocks: got \[0, 0, 1\]; expected each block once",
        ),
        (lambda c: c.update(quantized_blocks=[10**30]), r"quantized_blocks\[0\]: got 1000"),
        (lambda c: c.update(quantized_blocks=[]), "quantized_blocks: got"),
        (
            lambda c: c.update(per_block=[{"block": 0}]),
            r"quantized_blocks: got \[0, 1, 2\]; expected \[0\], as per_block",
        ),
        (lambda c: c.update(per_block=[{}]), r"per_block\[0\]: block: got nothing: the key is missing"),
        (lambda c: c["recipe"].update(bits_a=4), "bits_a: got 8; expected 4, as its recipe says"),
        (lambda c: c.update(bits_a=9), "bits_a: got 9; expected 2 or 3"),
        (lambda c: c.update(bits_a="8"), "bits_a: got '8'"),
        (lambda c: c.update(model=None), "model: got null; expected a text"),
        (lambda c: c.update(model=""), "model: got ''; expected a text that names a model"),
        (lambda c: c.update(recipe=[]), "recipe: got"),
    ],
)
def test_a_config_that_does_not_agree_is_refused(written, change, message):
    config = json.loads((written / "config.json").read_text())
    change(config)
    (written / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"config.json: {message}"):
        checkpoints.load(written)


def test_a_block_under_another_blocks_name_is_told(written):
    block_file(written, 1).write_bytes(block_file(written, 0).read_bytes())
    with pytest.raises(UserError, match="mm1.npz: __meta__: block: got 0; expected 1, as it is called"):
        checkpoints.load(written)


def test_a_file_in_place_of_a_folder_is_told(written):
    with pytest.raises(
        UserError, match="mm1.npz: got a file; expected the folder of a quantized checkpoint; name the"
    ):
        checkpoints.load(block_file(written, 1))


def test_a_folder_of_something_else_is_not_offered_as_the_place_of_a_new_one(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(
        UserError, match="got another folder; expected a quantized checkpoint; name the folder"
    ):
        read_adaround(tmp_path)
