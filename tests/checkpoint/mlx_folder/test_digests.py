"""A folder's files are those that were written with its config.json, to the bit; whatever else is refused by name."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ditq.checkpoint import outline_of_folder, read_folder, read_model, write_folder
from ditq.checkpoint.mlx_folder.digests import arrays_digest
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from tests.checkpoint.mlx_folder.test_folder_refusals import edit_arrays, edit_config, without_digests
from tests.checkpoint.small import IMAGE, INT4, block_layers, checkpoint, model, quantize, same

FC2 = f"{IMAGE}.mlp.fc2"
ANOTHER = r"{}: got another or a damaged file \(digest .*\); expected the file that was written with config.json; copy"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with the same layers, bits, timesteps and shapes, in one file each and in shards."""
    place, network = tmp_path_factory.mktemp("runs"), model()
    one = checkpoint(network, smooth=True)
    assert one.activations is not None
    layers = block_layers(network)
    weights = {
        path: weight if weight.smooth is None else quantize(0.5 * layers[path].weight, INT4, weight.smooth)
        for path, weight in one.weights.items()
    }
    rows = {
        path: replace(grid.rows, scale=grid.rows.scale * 2) for path, grid in one.activations.grids.items()
    }
    grids = {path: replace(grid, rows=rows[path]) for path, grid in one.activations.grids.items()}
    other = replace(one, weights=weights, activations=replace(one.activations, grids=grids))
    for name, parts in (("one", one), ("other", other)):
        write_folder(place / name, network, parts)
        write_folder(place / f"{name}-shards", network, parts, shard=200_000)
    return place


@pytest.fixture
def written(tmp_path, runs):
    return Path(shutil.copytree(runs / "one", tmp_path / "written"))


@pytest.fixture
def sharded(tmp_path, runs):
    return Path(shutil.copytree(runs / "one-shards", tmp_path / "sharded"))


def refused(folder, message) -> None:
    for read in (read_folder, read_model):
        with pytest.raises(UserError, match=message):
            read(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "activations.npz"])
def test_a_file_of_another_run_is_refused(runs, written, name):
    shutil.copy(runs / "other" / name, written / name)
    refused(written, ANOTHER.format(name))


def test_a_shard_of_another_run_is_refused(runs, sharded):
    names = sorted(path.name for path in sharded.glob("model-*.safetensors"))
    changed = [n for n in names if (sharded / n).read_bytes() != (runs / "other-shards" / n).read_bytes()]
    shutil.copy(runs / "other-shards" / changed[0], sharded / changed[0])
    refused(sharded, ANOTHER.format(changed[0]))


def test_an_index_that_was_edited_or_added_is_refused(sharded, written):
    index = sharded / "model.safetensors.index.json"
    index.write_text(index.read_text() + " ")
    refused(sharded, ANOTHER.format(index.name))
    names = mx.load(str(written / "model.safetensors"))
    added = {"weight_map": dict.fromkeys(names, "model.safetensors")}
    (written / index.name).write_text(json.dumps(added))
    refused(written, "index.json: got a file that config.json's files do not name")


def test_a_single_bit_of_the_codes_counts(written):
    file = written / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused(written, ANOTHER.format("model.safetensors"))


@pytest.mark.parametrize("name", ["activations.npz", "smoothing.npz"])
def test_arrays_that_were_changed_are_refused_and_by_the_outline_too(written, name):
    arrays = read_npz(written / name)
    last = list(arrays)[-1]
    write_npz(written / name, {**arrays, last: arrays[last] * np.float32(1.5)})
    message = ANOTHER.format(name) if name == "smoothing.npz" else f"{name}: "
    refused(written, message)
    with pytest.raises(UserError, match=message):
        outline_of_folder(written)


def test_centres_that_are_missing_are_refused(written):
    arrays = read_npz(written / "activations.npz")
    arrays.pop(f"{FC2}::shift")
    write_npz(written / "activations.npz", arrays)
    refused(written, ANOTHER.format("activations.npz"))


def test_a_file_that_config_forgets_is_refused(written):
    edit_config(written, lambda c: c.pop("activation_quantization"))
    refused(written, "activation_quantization: got nothing; expected activations.npz, of which files")
    edit_config(written, lambda c: c["files"].pop("activations.npz"))
    read_folder(written)


def test_names_in_files_never_lead_out_of_the_folder(written):
    edit_config(written, lambda c: c["files"].update({"../x.safetensors": "0"}))
    refused(written, r"config.json: files: got the path '../x.safetensors'")


def test_the_time_at_which_a_file_was_written_does_not_count(runs, written):
    write_npz(written / "activations.npz", read_npz(written / "activations.npz"))
    same(read_folder(runs / "one"), read_folder(written))


def test_folders_of_earlier_versions_are_read(runs, written):
    without_digests(written)
    same(read_folder(runs / "one"), read_folder(written))
    shutil.copy(runs / "other" / "activations.npz", written / "activations.npz")
    read_folder(written)


def test_digests_tell_names_dtypes_shapes_and_values_apart():
    one = np.arange(6, dtype=np.float32)
    others = [{"b": one}, {"a": one.view(np.int32)}, {"a": one.reshape(2, 3)}, {"a": one + 1}, {}]
    digests = [arrays_digest(arrays) for arrays in ({"a": one}, *others)]
    assert len(set(digests)) == len(digests)
    assert arrays_digest({"a": one, "b": one + 1}) == arrays_digest({"b": one + 1, "a": one})


def test_a_layer_per_channel_is_not_read_as_one_with_groups(written):
    edit_config(written, lambda c: c["weight_quantization"]["layers"][FC2].update(per_channel=False))
    refused(written, "fc2.scales: got one scale in all groups of each channel; expected a scale a group")


def test_a_layer_of_constant_weights_may_have_groups(tmp_path):
    network = model()
    parts = checkpoint(network, replace(INT4, group_size=32), activations=False)
    weights = {
        **parts.weights,
        FC2: quantize(mx.zeros(parts.weights[FC2].shape), replace(INT4, group_size=32)),
    }
    constant = replace(parts, weights=weights)
    write_folder(tmp_path, network, constant)
    same(constant, read_folder(tmp_path))


def test_a_folder_without_a_models_name_is_refused(written):
    edit_config(written, lambda c: c.update(model=""))
    refused(written, "config.json: model: got ''; expected a text that names a model")
    with pytest.raises(UserError, match="config.json: model: got ''"):
        outline_of_folder(written)


def test_structure_is_told_before_digests(written):
    edit_arrays(written, lambda a: a.pop(f"{FC2}.biases"))
    refused(written, "fc2: got no biases")
