"""Numbers that no checkpoint folder can hold are refused where they are read, and never written."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import ActivationTable
from ditq.checkpoint import injected, outline_of_folder, read_folder, read_model, write_folder
from ditq.core.activation_grid import TimestepGrid
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from tests.checkpoint.mlx_folder.test_folder_refusals import edit_arrays, edit_config, without_digests
from tests.checkpoint.small import IMAGE, checkpoint, model

FC1, FC2, Q = f"{IMAGE}.mlp.fc1", f"{IMAGE}.mlp.fc2", f"{IMAGE}.attn.q_proj"
BIAS = "final_layer.linear.bias"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder, network = tmp_path_factory.mktemp("whole"), model()
    write_folder(folder, network, checkpoint(network, smooth=True), mx.float32, "float32")
    return folder


@pytest.fixture
def written(tmp_path, whole):
    return Path(shutil.copytree(whole, tmp_path / "written"))


def refused(folder, message) -> None:
    for read in (read_folder, read_model):
        with pytest.raises(UserError, match=message):
            read(folder)


def edit_npz(path, change) -> None:
    arrays = read_npz(path)
    change(arrays)
    write_npz(path, arrays)
    without_digests(path.parent)


def put(name, value):
    """Sets the first number of an array."""

    def change(arrays):
        found = np.array(arrays[name])
        found[(0,) * found.ndim] = value
        arrays[name] = mx.array(found) if isinstance(arrays[name], mx.array) else found

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: [a.update({f"{FC2}.{p}": -a[f"{FC2}.{p}"]}) for p in ("scales", "biases")],
            "fc2.scales: got -",
        ),
        (
            lambda a: a.update({f"{FC2}.scales": -a[f"{FC2}.scales"]}),
            "fc2.scales: got -.*; expected steps above 0",
        ),
        (put(f"{FC2}.scales", 0.0), "fc2.scales: got 0; expected steps above 0"),
        (
            lambda a: a.update({f"{FC2}.scales": mx.full((64, 2), mx.inf)}),
            "fc2.scales: got values that are not finite",
        ),
        (
            lambda a: a.update({f"{FC2}.scales": mx.full((64, 2), 1e-38)}),
            "fc2.scales: got (0|1e-38); expected steps",
        ),
        (
            lambda a: a.update({f"{FC2}.biases": mx.full((64, 2), 1e30)}),
            r"fc2.biases: got 1e\+30; expected finite",
        ),
        (put(f"{FC2}.biases", 1e9), "fc2.biases: got groups of one channel that differ"),
        (lambda a: a.update({f"{FC2}.biases": a[f"{FC2}.biases"] * 2}), "fc2: zero: got 8; expected 0"),
        (put(BIAS, 1e30), rf"{BIAS}: got 1e\+30; expected finite numbers, at most 9.2e\+18"),
        (
            lambda a: a.update({f"{FC2}.scales": mx.ones((64, 2), mx.int32)}),
            "fc2.scales: got .*int32; expected float32",
        ),
    ],
)
def test_weights(written, change, message):
    edit_arrays(written, change)
    refused(written, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put(f"{FC1}::scale", -0.5),
            "activations.npz: .*fc1: activation scale: got -0.5; expected steps above 0",
        ),
        (put(f"{FC1}::scale", 1e-38), "fc1: activation scale: got 1e-38"),
        (put(f"{FC1}::scale", np.nan), "fc1: activation scale: got values that are not finite"),
        (put(f"{FC2}::shift", np.inf), "fc2: activation shift: got values that are not finite"),
        (put(f"{FC2}::shift", 1e30), r"fc2: activation shift: got 1e\+30"),
        (
            lambda a: (put(f"{FC1}::qmin", 0)(a), put(f"{FC1}::qmax", 0)(a)),
            "fc1: activation bounds: got qmin 0 and qmax 0",
        ),
        (
            put(f"{FC1}::qmin", 200),
            "fc1: activation bounds: got qmin 200 and qmax 127; expected those of 2 to 8 bits",
        ),
        (put(f"{FC1}::qmin", -np.inf), "fc1: activation bounds: got qmin -inf"),
        (put(f"{FC1}::qmax", 126.5), "fc1: activation bounds: got qmin -128 and qmax 126.5"),
        (put(f"{FC1}::qmax", 100), "fc1: activation bounds: got qmin -128 and qmax 100"),
        (
            put("timesteps", np.nan),
            r"timesteps: got \[nan, 700, 300, 20\]; expected one at least; they must fall",
        ),
        (put("timesteps", -1), r"timesteps: got \[-1, 700"),
        (put("timesteps", 9e18), r"timesteps: got \[9e\+18, 700, 300, 20\]; .* within 0 and 1000"),
        (put("timesteps", 999), "expected the layers and timesteps that config.json"),
        (lambda a: a.update(timesteps=a["timesteps"][::-1]), "they must fall"),
        (
            lambda a: [a.pop(key) for key in list(a) if key.startswith(FC2)],
            "got .* layers, 4 timesteps from 1000",
        ),
        (
            lambda a: a.update({f"{FC1}::scale": np.ones(4, np.int64)}),
            "fc1::scale: got int64; expected floating",
        ),
        (lambda a: a.update(other=np.ones(4, np.float32)), "got an array 'other'"),
        (
            lambda a: a.update({f"{FC1}::scale": np.ones((4, 2), np.float32)}),
            "fc1: got .*scale of shape",
        ),
    ],
)
def test_activation_grids(written, change, message):
    edit_npz(written / "activations.npz", change)
    refused(written, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put(FC1, 0.0), "smoothing.npz: .*fc1: got 0; expected factors above 0"),
        (put(FC1, -1.0), "fc1: got -1; expected factors above 0"),
        (put(FC1, np.inf), "fc1: got values that are not finite"),
        (put(FC1, 1e-38), "fc1: got 1e-38"),
        (
            lambda a: a.pop(FC1),
            "fc1: got no factors; expected the factors of each layer that config.json lists",
        ),
        (
            lambda a: a.update({FC2: np.ones(256, np.float32)}),
            "fc2: got factors of a layer that config.json does not",
        ),
        (lambda a: a.update({FC1: np.ones((64, 1), np.float32)}), r"fc1: got float32 of shape \(64, 1\)"),
    ],
)
def test_smoothing_factors(written, change, message):
    edit_npz(written / "smoothing.npz", change)
    refused(written, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("quantization"), "config.json: quantization: got nothing: the key is missing"),
        (
            lambda c: c["quantization"].update(mode="mxfp4"),
            "quantization: mode: got 'mxfp4'; expected 'affine'",
        ),
        (
            lambda c: c["quantization"].update(group_size=0),
            "quantization: group_size: got 0; expected 32 or 64",
        ),
        (lambda c: c["quantization"].update(group_size=64.0), "quantization: group_size: got 64.0"),
        (lambda c: c["quantization"].update(bits=True), "quantization: bits: got true"),
        (lambda c: c["quantization"][FC1].update(mode="nvfp4"), "fc1: mode: got 'nvfp4'"),
        (lambda c: c["quantization"].update({FC1: True}), "fc1: got true; expected an object"),
        (lambda c: c["quantization"].update({FC1: False}), "fc1.*got"),
        (
            lambda c: c["weight_quantization"].update(smoothing="../smoothing.npz"),
            "smoothing: got '../smoothing.npz'",
        ),
        (lambda c: c["activation_quantization"].update(file="/etc/passwd"), "file: got '/etc/passwd'"),
        (lambda c: c["activation_quantization"].update(timesteps=[]), "timesteps: got"),
        (lambda c: c["weight_quantization"].update(layers=[]), r"layers: got \[\]; expected an object"),
        (lambda c: c.update(meta=3), "meta: got 3"),
        (lambda c: c["weight_quantization"].update(scales="int8"), "scales: got 'int8'"),
        (lambda c: c["weight_quantization"]["layers"][FC1].update(scales="int8"), "scales: got 'int8'"),
        (
            lambda c: c["weight_quantization"]["layers"][FC1].update(scales="float16"),
            "scales: got float32; expected float16, as",
        ),
        (
            lambda c: [
                c["weight_quantization"].update(scales="float16"),
                c["weight_quantization"]["layers"][FC1].pop("scales"),
            ],
            "scales: got float32; expected float16, as",
        ),
    ],
)
def test_config(written, change, message):
    edit_config(written, change)
    refused(written, message)


def test_an_outline_is_of_a_sound_config_alone(written):
    edit_config(written, lambda c: c["quantization"].update(mode="mxfp4"))
    with pytest.raises(UserError, match="mode: got 'mxfp4'"):
        outline_of_folder(written)


def test_the_shape_of_a_folder_is_held_against_the_model_that_it_names(written):
    edit_config(written, lambda c: c.update(model="mini"))
    refused(written, "config.json: model_config: got .*as mini has")


def test_another_model_with_the_same_shapes_is_told(written):
    made, network = read_folder(written), model()
    with injected(network, made):
        pass
    other = model()
    other.final_layer.linear.weight = other.final_layer.linear.weight + 0.5
    with pytest.raises(UserError, match="made from other weights of small"), injected(other, made):
        pass
    with pytest.raises(UserError, match="made from other weights of small"):
        write_folder(written.parent / "other", other, made)
    assert not (written.parent / "other").exists()
    edit_config(written, lambda c: c.pop("made_from"))  # as earlier versions wrote it
    with injected(other, read_folder(written)):
        pass


def test_folders_that_do_not_list_their_smoothed_layers_are_read(written):
    edit_config(written, lambda c: c["weight_quantization"].pop("smoothed"))
    assert read_folder(written).weights[FC1].smooth is not None


@pytest.mark.parametrize(("part", "value"), [("qmin", -np.inf), ("qmax", -128.0), ("scale", 0.0)])
def test_senseless_grids_are_never_written(tmp_path, part, value):
    network = model()
    parts = checkpoint(network)
    assert parts.activations is not None
    grid = parts.activations.grids[FC1]
    assert isinstance(grid, TimestepGrid)
    rows = replace(grid.rows, **{part: mx.full((4,), value)})
    table = ActivationTable(grid.timesteps, {**parts.activations.grids, FC1: replace(grid, rows=rows)})
    with pytest.raises(UserError, match="fc1: activation"):
        write_folder(tmp_path / "out", network, replace(parts, activations=table))
    assert not (tmp_path / "out").exists()


def test_hidden_and_other_files_in_a_folder_are_never_read(written, whole):
    for name in (".model.abc.safetensors", "model (1).safetensors", "adapter.safetensors"):
        (written / name).write_bytes(b"half of a file")
    read_folder(written)
    assert json.loads((written / "config.json").read_text()) == json.loads(
        (whole / "config.json").read_text()
    )
