"""The checkpoint folder: codes bit for bit there and back, read by code that is not ours, refused when not whole."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from ditq.activations import ActivationTable
from ditq.checkpoint import (
    QuantizedCheckpoint,
    injected,
    outline,
    outline_of_folder,
    read_folder,
    read_model,
    write_folder,
)
from ditq.checkpoint.mlx_folder import folder, shards
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.models import Conditioning
from ditq.models.mmdit import MMDiT
from ditq.nn import clock_of
from tests.checkpoint.small import CONFIG, IMAGE, TIMESTEPS, block_layers, checkpoint, model, quantize
from tests.checkpoint.test_inject import velocities

FC2 = f"{IMAGE}.mlp.fc2"
SPECS = [
    Spec(bits, symmetric, group)
    for bits in (2, 3, 4, 5, 6, 8)
    for symmetric in (True, False)
    for group in (None, 32)
]
SPECS += [Spec(4, True, 64), Spec(4, False, 64)]


@pytest.fixture(scope="module")
def network() -> MMDiT:
    return model()


def same(
    one: QuantizedCheckpoint, other: QuantizedCheckpoint, parts=("codes", "scale", "zero", "smooth")
) -> None:
    assert (one.model, one.meta, set(one.weights)) == (other.model, other.meta, set(other.weights))
    for path, weight in one.weights.items():
        assert weight.spec == other.weights[path].spec
        for part in parts:
            same_array(getattr(weight, part), getattr(other.weights[path], part), f"{path} {part}")
    assert (one.activations is None) == (other.activations is None)
    if one.activations is not None and other.activations is not None:
        assert np.array_equal(one.activations.timesteps, other.activations.timesteps)
        assert one.activations.grids.keys() == other.activations.grids.keys()
        for path, grid in one.activations.grids.items():
            found = other.activations.grids[path]
            assert np.array_equal(grid.timesteps, found.timesteps), path
            same_array(grid.smooth, found.smooth, f"{path} smooth")
            for part in ("scale", "qmin", "qmax", "shift"):
                same_array(getattr(grid.rows, part), getattr(found.rows, part), f"{path} {part}")


def same_array(one, other, what) -> None:
    assert (one is None) == (other is None), what
    assert one is None or mx.array_equal(one, other), what


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_everything_comes_back_bit_for_bit(tmp_path, network, spec):
    before = replace(checkpoint(network, spec, smooth=True), meta={"method": "rounding", "bits": spec.bits})
    write_folder(tmp_path, network, before)
    same(before, read_folder(tmp_path))


@pytest.mark.parametrize("spec", [Spec(4), Spec(8, False), Spec(3, False, 32)], ids=str)
def test_codes_survive_half_precision_scales(tmp_path, network, spec):
    scales = mx.float16
    before = checkpoint(network, spec, activations=False)
    write_folder(tmp_path, network, before, scales)
    after = read_folder(tmp_path)
    same(before, after, ("codes", "zero"))
    for path, weight in before.weights.items():
        assert mx.array_equal(after.weights[path].scale, weight.scale.astype(scales).astype(mx.float32))


def mixed(network: MMDiT) -> QuantizedCheckpoint:
    """Another number of bits and another granularity from layer to layer."""
    choices = [Spec(4), Spec(8, True, 32), Spec(3, False, 64), Spec(4, True, 64), Spec(6), Spec(8, False)]
    layers = block_layers(network).items()
    weights = {path: quantize(layer.weight, choices[i % 6]) for i, (path, layer) in enumerate(layers)}
    return QuantizedCheckpoint("small", weights)


def stock(path) -> MMDiT:
    """What a program that knows MLX and nothing of ditq does with the folder."""
    config = json.loads((path / "config.json").read_text())
    bare = MMDiT(CONFIG)
    nn.quantize(bare, class_predicate=lambda name, module: config["quantization"].get(name, False))
    weights = {}
    for file in path.glob("model*.safetensors"):
        weights |= mx.load(str(file))
    bare.load_weights(list(weights.items()), strict=True)
    return bare


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("kind", ["mixed", "per channel", "grouped"])
def test_code_that_is_not_ours_computes_the_same_w4a16(tmp_path, network, kind, smooth):
    if kind == "mixed":
        parts = mixed(network)
    else:
        parts = checkpoint(network, Spec(4, True, None if kind == "per channel" else 32), smooth)
    write_folder(tmp_path, network, parts, shard=200_000)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    theirs = stock(tmp_path)
    assert sum(isinstance(m, nn.QuantizedLinear) for _, m in theirs.named_modules()) == len(parts.weights)
    with injected(network, parts, activations=False):
        wanted = velocities(network)
    for other in (theirs, read_model(tmp_path, activations=False), read_model(tmp_path, False, "packed")):
        for got, velocity in zip(velocities(other), wanted, strict=True):
            assert np.abs(got - velocity).max() < 2e-5 * np.abs(velocity).max()


@pytest.mark.parametrize("smooth", [False, True])
def test_the_folder_alone_computes_what_injection_does(tmp_path, network, smooth):
    parts = checkpoint(network, Spec(4), smooth)
    before = dict(tree_flatten(network.parameters()))
    write_folder(tmp_path, network, parts)
    assert all(mx.array_equal(before[key], value) for key, value in tree_flatten(network.parameters()))
    with injected(network, read_folder(tmp_path)):
        wanted = velocities(network)
    alone = read_model(tmp_path)
    assert clock_of(alone) is not None
    for got, velocity in zip(velocities(alone), wanted, strict=True):
        assert np.abs(got - velocity).mean() < 0.005 * np.abs(velocity).mean()


def test_a_16_bit_model_stays_one(tmp_path):
    half = model()
    half.set_dtype(mx.float16)
    parts = checkpoint(half, Spec(4), smooth=True)
    write_folder(tmp_path, half, parts)
    for alone in (read_model(tmp_path), read_model(tmp_path, False), read_model(tmp_path, False, "packed")):
        assert alone.dtype == mx.float16
        inputs = alone.prepare(Conditioning(mx.zeros((1, 7, 40)), mx.ones((1, 48))), mx.array([500.0]))
        clock = clock_of(alone)
        if clock is not None:
            clock.follow(np.array([500.0]))
        assert inputs.by_step["modulation"].dtype == mx.float16
        assert alone(mx.zeros((1, 8, 8, 16), mx.float16), **inputs.at(0)).dtype == mx.float16


def test_an_earlier_run_leaves_nothing_behind(tmp_path, network):
    write_folder(tmp_path, network, checkpoint(network, smooth=True), shard=200_000)
    files = write_folder(tmp_path, network, mixed(network))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(files) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("at", ["write_safetensors", "write_npz", "write_json"])
def test_a_run_that_was_killed_leaves_no_checkpoint_and_can_be_repeated_to_the_bit(
    tmp_path, network, at, monkeypatch
):
    parts = checkpoint(network, smooth=True)
    write_folder(tmp_path / "whole", network, parts)
    write_folder(tmp_path / "killed", network, mixed(network))
    with monkeypatch.context() as patch:
        place = shards if at == "write_safetensors" else folder
        patch.setattr(place, at, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_folder(tmp_path / "killed", network, parts)
    with pytest.raises(UserError, match="config.json: got no such file"):
        read_folder(tmp_path / "killed")
    write_folder(tmp_path / "killed", network, parts)
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "killed").iterdir())
    for name in names:
        if not name.endswith(".npz"):  # whose entries carry the time
            assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    same(read_folder(tmp_path / "whole"), read_folder(tmp_path / "killed"))


# What is refused


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


def test_bfloat16_scales_are_refused(tmp_path, network):
    with pytest.raises(UserError, match="scales: got .*bfloat16; expected float32 or float16"):
        write_folder(tmp_path, network, checkpoint(network), mx.bfloat16)


def test_scales_beyond_half_precision_are_refused_by_name(tmp_path, network):
    parts = checkpoint(network, activations=False)
    weights = {**parts.weights, FC2: replace(parts.weights[FC2], scale=parts.weights[FC2].scale * 1e-8)}
    with pytest.raises(
        UserError, match="fc2: scales: got values beyond .*float16; store the scales as float32"
    ):
        write_folder(tmp_path, network, replace(parts, weights=weights), mx.float16)


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


def edit_arrays(folder, change) -> None:
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
            "fc2: group_size: got None; expected a whole number",
        ),
        (lambda c: c["quantization"][FC2].update(bits="4"), "fc2: bits: got '4'; expected a whole number"),
        (lambda c: c["quantization"][FC2].update(bits=7), "fc2: got 7 bits in groups of 128; expected bits"),
        (lambda c: c.pop("model_config"), "config.json: model_config: got None; expected an object"),
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


def test_tables_of_one_row_are_kept(tmp_path, network):
    parts = checkpoint(network)
    grids = {
        path: TimestepGrid(TIMESTEPS[:1], grid.rows.take(np.array([0])), grid.smooth)
        for path, grid in parts.activations.grids.items()
    }
    static = replace(parts, activations=ActivationTable(TIMESTEPS[:1], grids))
    write_folder(tmp_path, network, static)
    same(static, read_folder(tmp_path))


@pytest.mark.parametrize("spec", [Spec(4), Spec(3, False, 32), Spec(8, False)], ids=str)
@pytest.mark.parametrize("activations", [False, True])
def test_the_outline_is_known_without_the_codes(tmp_path, network, spec, activations):
    parts = checkpoint(network, spec, activations=activations)
    write_folder(tmp_path, network, parts)
    (tmp_path / "model.safetensors").unlink()
    assert outline_of_folder(tmp_path) == outline(parts)
    if spec.group_size == 32:
        assert outline(parts).bits_per_weight == 3 + (32 + 3) / 32  # a scale and a zero point in 32 columns
