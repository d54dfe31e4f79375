"""What a checkpoint folder cannot hold is refused before anything is written; what is not whole, when it is read."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ditq.activations import ActivationTable
from ditq.checkpoint import (
    injected,
    read_folder,
    read_model,
    write_folder,
)
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models.mmdit import MMDiT
from tests.checkpoint.small import IMAGE, TIMESTEPS, block_layers, checkpoint, model, quantize
from tests.checkpoint.test_inject import velocities

FC2 = f"{IMAGE}.mlp.fc2"


@pytest.fixture(scope="module")
def network() -> MMDiT:
    return model()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda w: {f"{IMAGE}.attn.o_proj": {"smooth": mx.ones((64,))}},
            "o_proj: got smoothing factors that no adaptive layer norm can take; .* --smooth foldable",
        ),
        (
            lambda w: {FC2: {"smooth": mx.ones((256,))}},
            "fc2: got smoothing factors that no adaptive layer norm",
        ),
        (
            lambda w: {f"{IMAGE}.attn.q_proj": {"smooth": mx.full((64,), 2.0)}},
            "q_proj: smoothing factors: got others than those of .*k_proj",
        ),
        (
            lambda w: {
                f"{IMAGE}.attn.{n}_proj": {"smooth": mx.full((64,), float(v))}
                for n, v in zip("qkv", (2, 2, 3), strict=True)
            },
            "smoothing factors: got others than those of .*v_proj",
        ),
    ],
)
def test_smoothing_that_cannot_be_folded_is_refused(tmp_path, network, spoil, message):
    parts = checkpoint(network, activations=False)
    changes = spoil(parts.weights)
    weights = {p: replace(w, **changes.get(p, {})) for p, w in parts.weights.items()}
    with pytest.raises(UserError, match=message):
        write_folder(tmp_path, network, replace(parts, weights=weights))
    assert not list(tmp_path.iterdir())


def test_grids_that_expect_other_factors_are_not_written(tmp_path, network):
    parts = checkpoint(network, smooth=True)
    plain = checkpoint(network, smooth=False)
    with pytest.raises(UserError, match="smoothing factors of the weight alone"):
        write_folder(tmp_path, network, replace(parts, activations=plain.activations))


class Computed:
    """A grid whose rows are a function of the timestep."""

    smooth = None

    def at(self, timesteps):
        bound = mx.full((len(timesteps),), 127.0)
        return GridRows(mx.array(np.asarray(timesteps, np.float32) / 1e4), -bound - 1, bound)


@pytest.mark.parametrize("kind", ["computed", "other timesteps"])
def test_grids_without_a_row_for_each_timestep_are_refused_by_name_before_anything_is_written(
    tmp_path, network, kind
):
    parts, grid = checkpoint(network), Computed()
    if kind == "other timesteps":
        grid = TimestepGrid(TIMESTEPS - 1, Computed().at(TIMESTEPS))
    given = ActivationTable(TIMESTEPS, {**parts.activations.grids, FC2: grid})
    with pytest.raises(UserError, match=r"fc2: activation grid: got .*; tabulate it first: TimestepGrid\("):
        write_folder(tmp_path, network, replace(parts, activations=given))
    assert not list(tmp_path.iterdir())
    with injected(network, replace(parts, activations=given)):  # but it can be run
        assert all(np.isfinite(velocity).all() for velocity in velocities(network))


def test_bits_that_mlx_cannot_store_are_refused_by_name(tmp_path, network):
    parts = checkpoint(network, activations=False)
    layer = block_layers(network)[FC2]
    weights = {**parts.weights, FC2: quantize(layer.weight, Spec(7))}
    with pytest.raises(UserError, match="fc2: packed storage: got 7 bits"):
        write_folder(tmp_path, network, replace(parts, weights=weights))


def test_scales_beyond_half_precision_are_refused_by_name(tmp_path, network):
    parts = checkpoint(network, activations=False)
    weights = {**parts.weights, FC2: replace(parts.weights[FC2], scale=parts.weights[FC2].scale * 1e-8)}
    with pytest.raises(
        UserError, match="fc2: scales: got values beyond .*float16; store the scales as float32"
    ):
        write_folder(tmp_path, network, replace(parts, weights=weights), scales="float16")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("whole")
    write_folder(folder, network, checkpoint(network, smooth=True))
    return folder


@pytest.fixture
def written(tmp_path, whole):
    return Path(shutil.copytree(whole, tmp_path / "written"))


def edit_config(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def without_digests(folder) -> None:
    """As earlier versions wrote it: what is edited is then refused for what it is."""
    edit_config(folder, lambda config: config.pop("files", None))


def edit_arrays(folder, change) -> None:
    without_digests(folder)
    arrays = mx.load(str(folder / "model.safetensors"))
    change(arrays)
    mx.eval(arrays)
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(version=9),
            "version 9; expected ditq.quantized_model version 1, as export",
        ),
        (lambda c: c.update(kind="other"), "got other version 1"),
        (
            lambda c: c["quantization"].pop(FC2),
            "fc2: got packed weights that config.json's quantization does not name",
        ),
        (
            lambda c: c["weight_quantization"]["layers"].pop(FC2),
            "fc2: got packed weights that config.json's weight_quantization does not name",
        ),
        (
            lambda c: c["quantization"][FC2].update(bits=8),
            r"fc2.weight: got shape \(64, 32\); expected \(64, 64\)",
        ),
        (
            lambda c: c["quantization"][FC2].update(group_size=32),
            r"fc2.scales: got shape \(64, 2\); expected \(64, 8\)",
        ),
        (
            lambda c: c["quantization"][FC2].pop("group_size"),
            "fc2: group_size: got nothing: the key is missing",
        ),
        (lambda c: c["quantization"][FC2].update(bits="4"), "fc2: bits: got '4'; expected 2 or 3"),
        (lambda c: c["quantization"][FC2].update(bits=7), "fc2: bits: got 7; expected 2 or 3"),
        (lambda c: c.pop("model_config"), "config.json: model_config: got nothing: the key is missing"),
        (lambda c: c.update(model_type="gan"), "config.json: model_type: got gan; expected mmdit"),
        (
            lambda c: c["model_config"].update(hidden_size_override=128),
            r"_proj.weight: got shape \(64, 8\); expected \(128, 16\)",
        ),
        (
            lambda c: c["model_config"].update(depth_multimodal=2),
            "transformer_blocks.1.*o_proj: got no such layer in the model",
        ),
    ],
)
def test_a_config_that_does_not_fit_is_refused_with_the_layer(written, change, message):
    edit_config(written, change)
    for read in (read_folder, read_model):
        with pytest.raises(UserError, match=message):
            read(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop(f"{FC2}.biases"), "fc2: got no biases; expected a whole quantized layer"),
        (
            lambda a: a.update({f"{FC2}.scales": mx.full((64, 2), mx.nan)}),
            "fc2: scale: got values that are not finite|fc2.scales",
        ),
        (
            lambda a: a.update({f"{FC2}.biases": mx.full((64, 2), 0.123)}),
            "fc2.biases: got zero points between two codes",
        ),
        (
            lambda a: a.update({"a.b.weight": a[f"{FC2}.weight"], "a.b.scales": a[f"{FC2}.scales"]}),
            "a.b: got packed weights that config.json's quantization does not name",
        ),
    ],
)
def test_arrays_that_do_not_fit_are_refused_with_the_layer(written, change, message):
    edit_arrays(written, change)
    for read in (read_folder, read_model):
        with pytest.raises(UserError, match=message):
            read(written)


def test_missing_and_extra_float_parameters_are_named(written):
    edit_arrays(written, lambda a: a.update({"other.weight": a.pop("final_layer.linear.weight")}))
    with pytest.raises(UserError, match="1 missing: final_layer.linear.weight; 1 extra: other.weight"):
        read_model(written)
    with pytest.raises(UserError, match="1 missing: final_layer.linear.weight; 1 extra: other.weight"):
        read_folder(written)


def test_a_truncated_file_is_refused(written):
    file = written / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    for read in (read_folder, read_model):
        with pytest.raises(
            UserError, match="model.safetensors: got a file that cannot be read .*copy or download"
        ):
            read(written)


def test_a_missing_companion_is_named(written):
    (written / "activations.npz").unlink()
    with pytest.raises(UserError, match="activations.npz: got no such file"):
        read_folder(written)


def test_an_unfinished_folder_is_refused(written):
    (written / "config.json").unlink()
    with pytest.raises(UserError, match="config.json: got no such file"):
        read_folder(written)
