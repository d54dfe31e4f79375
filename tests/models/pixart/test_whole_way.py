"""A small random PixArt folder through the commands that users type: calibrated, quantized, drawn."""

import json
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ditq.models.diffusionkit.pixart as pixart
from ditq import capture
from ditq.calibration import read_images
from ditq.checkpoint import inject, load, read_folder, read_model
from ditq.cli import (
    adaround_optimize,
    analyze_activations,
    cache_adaround_data,
    collect_layer_activations,
    export_checkpoint,
    generate,
    generate_calibration_data,
    load_adaround_model,
    quantize,
)
from ditq.core.files import read_json, read_npz
from ditq.models import load as load_model
from ditq.models.pixart import PixArt
from ditq.nn import QuantizedLinear, clock_of
from tests.models.diffusionkit.small_pixart import CONFIG, SHAPE, write_pixart

IN_BLOCKS = PixArt(CONFIG).anatomy.paths("block")
MIXED = {
    "kind": "ditq.recipe",
    "version": 1,
    "layers": [
        {"roles": ["embedder", "modulation"], "method": "gptq", "bits": 8},
        {"roles": ["head"], "method": "qronos", "bits": 8},
        {"paths": ["transformer_blocks.0.*"], "method": "qronos", "bits": 4, "group_size": 32},
        {"paths": ["transformer_blocks.1.*"], "method": "adaround", "bits": 4, "group_size": 32},
        {"paths": ["*"], "method": "gptq", "bits": 4, "group_size": 32},
    ],
    "methods": {"adaround": {"iterations": 4, "batch_size": 4}},
    "activations": {"bits": 8},
    "tuning": {"steps": 2, "pictures": 2},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder, with the model's shapes in place of the published ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pixart.CONFIGS, "pixart-alpha", CONFIG)
        patch.setitem(pixart.VAES, "pixart-alpha", SHAPE)
        yield write_pixart(tmp_path_factory.mktemp("pixart")).folder


@pytest.fixture(scope="module")
def model(small):
    return ["--model", "pixart-alpha", "--model-path", str(small)]


@pytest.fixture(scope="module")
def calibration(model, tmp_path_factory):
    """Recorded pictures."""
    folder = tmp_path_factory.mktemp("pixart") / "calibration"
    flags = "--num-images 4 --steps 4 --size 64 --cfg-weight 3 --batch-size 2 --calib-dir"
    generate_calibration_data.main([*model, *flags.split(), str(folder)])
    return folder


@pytest.fixture(scope="module")
def checkpoint(model, calibration, tmp_path_factory):
    """A checkpoint folder of a recipe with every kind of method."""
    place = tmp_path_factory.mktemp("checkpoints")
    (place / "mixed.json").write_text(json.dumps(MIXED))
    flags = ["--recipe", str(place / "mixed.json"), "--calib", str(calibration), "--out", str(place / "out")]
    quantize.main([*model, *flags, "--num-images", "3", "--stride", "2"])
    return place / "out"


def test_samples_are_those_of_the_model(calibration):
    images = read_images(calibration)
    assert images.manifest["noise"] == "ddpm-linear" and images.manifest["sampler"] == "dpm++2m"
    conditioning = read_npz(calibration / "conditioning.npz")
    assert set(conditioning) == {"tokens", "mask"} and 0 < conditioning["mask"].mean() < 0.5
    assert read_npz(calibration / "samples" / "0000_000.npz")["x"].shape == (1, 8, 8, 4)


def test_every_layer_is_quantized_and_every_input_in_a_block_has_a_grid(checkpoint):
    found = read_folder(checkpoint)
    assert set(found.weights) == set(PixArt(CONFIG).anatomy.modules(PixArt(CONFIG)))
    assert found.activations is not None and set(found.activations.grids) == set(IN_BLOCKS)
    report = read_json(checkpoint / "report.json")
    assert len(report["blocks"]) == CONFIG.depth
    assert all(np.isfinite(one["error"]) for one in report["blocks"])


def test_calibrated_methods_beat_rounding_on_their_blocks(checkpoint):
    for block in read_json(checkpoint / "report.json")["blocks"]:
        assert block["error"] <= block["error_rounding"] * (1 + 1e-6)


def test_keys_and_values_were_calibrated_on_the_text(checkpoint):
    """Their inputs are as wide as the pixels': a guess by shapes would go unnoticed."""
    grids = read_folder(checkpoint).activations.grids
    key, value, query = (grids[f"transformer_blocks.1.attn2.to_{name}"] for name in "kvq")
    assert mx.array_equal(key.rows.scale, value.rows.scale)
    assert not mx.array_equal(key.rows.scale, query.rows.scale)
    assert len({float(scale) for scale in np.array(key.rows.scale).reshape(-1)}) == 1  # at every timestep


def network_of(small):
    return load_model("pixart-alpha", small).network()


def drawn(network, small) -> np.ndarray:
    """One prediction at timestep 700."""
    if (clock := clock_of(network)) is not None:
        clock.follow(np.array([700.0]))
        clock.set(0)
    conditioning = load_model("pixart-alpha", small).encode(["the red fox", "snow"])
    latents = mx.array(np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32))
    return np.array(network(latents, **network.prepare(conditioning, mx.array([700.0])).at(0)))


def test_injected_layers_compute_what_the_folder_alone_computes(small, checkpoint):
    network, alone = network_of(small), read_model(checkpoint)
    plain = drawn(network, small)
    # what stays float is stored in 16 bits: a difference that would move some inputs to other codes
    stored = mx.load(str(checkpoint / "model.safetensors"))
    halves = {name: one.astype(mx.float32) for name, one in stored.items() if one.dtype == mx.float16}
    names = dict(tree_flatten(network.parameters())).keys() & halves.keys()
    network.load_weights([(name, halves[name]) for name in names], strict=False)
    inject(network, replace(read_folder(checkpoint), made_from=None))
    assert isinstance(network.transformer_blocks[0].attn2.to_k, QuantizedLinear)
    one = drawn(network, small)
    assert np.abs(one - drawn(alone, small)).max() < 1e-5
    assert 0 < np.linalg.norm(one - plain) / np.linalg.norm(plain) < 0.5


def test_a_picture_does_not_depend_on_its_batch(small, checkpoint):
    """With quantized activations: to the bit."""
    network = network_of(small)
    blocks = read_folder(checkpoint)
    weights = {path: one for path, one in blocks.weights.items() if path in IN_BLOCKS}
    network = capture.sharing(network)
    inject(network, replace(blocks, weights=weights, made_from=None))  # the embedders stay float
    clock_of(network).follow(np.array([700.0]))
    clock_of(network).set(0)
    conditioning = load_model("pixart-alpha", small).encode(["the red fox", "snow", "the castle"])
    x = mx.array(np.random.default_rng(0).standard_normal((3, 8, 8, 4)).astype(np.float32))
    prepared = [network.prepare(one, mx.array([700.0])).at(0) for one in (conditioning, conditioning[1:2])]
    together, alone = network(x, **prepared[0]), network(x[1:2], **prepared[1])
    assert mx.array_equal(together[1:2], alone)


def test_the_folder_is_read_by_plain_mlx(small, checkpoint):
    """`nn.quantize` and `load_weights`, as every stock loader."""
    config = read_json(checkpoint / "config.json")["quantization"]
    stored = dict(mx.load(str(checkpoint / "model.safetensors")))
    network = PixArt(CONFIG)
    nn.quantize(
        network,
        class_predicate=lambda path, one: config.get(path, False) if isinstance(one, nn.Linear) else False,
    )
    network.load_weights(list(stored.items()))
    got, expected = drawn(network, small), drawn(read_model(checkpoint, activations=False), small)
    assert np.abs(got - expected).mean() < 0.01 * np.abs(expected).mean()


@pytest.mark.slow
def test_both_tracks_of_the_documents_go_the_whole_way(model, calibration, tmp_path):
    cache, run, out = calibration / "adaround_cache", tmp_path / "run", tmp_path / "exported"
    own = ["--calib-dir", str(calibration), "--model-path", model[-1]]
    cache_adaround_data.main([*own, "--num-images", "3", "--stride", "2"])
    collect_layer_activations.main([*own, "--num-images", "3"])
    stats = calibration / "activations" / "layer_statistics.json"
    analyze_activations.main(["--stats", str(stats), "--bits", "8"])
    config = stats.with_name("quant_config.json")
    track = ["--cache-dir", str(cache), "--output-dir", str(run), "--iters", "2", "--batch-size", "4"]
    adaround_optimize.main([*track, "--model-path", model[-1], "--quant-config", str(config)])
    source = ["--adaround-output", str(run), "--quant-config", str(config), "--model-path", model[-1]]
    export_checkpoint.main([*source, "--out", str(out)])
    flags = ["--prompt", "the red fox", "--output-image", str(tmp_path / "fox.png"), "--steps", "2"]
    load_adaround_model.main([*source, *flags, "--size", "64"])
    assert set(load(run, config).weights) == set(load(out).weights) == set(IN_BLOCKS)
    assert (tmp_path / "fox.png").exists()


def test_pictures_are_drawn_with_quantized_weights_and_activations(model, checkpoint, tmp_path):
    for name, source in (("float", []), ("w4a8", ["--checkpoint", str(checkpoint)])):
        flags = ["--out", str(tmp_path / name), "--steps", "3", "--size", "64", *source]
        generate.main([*model, "the red fox", "snow", *flags])
        assert len(list((tmp_path / name).glob("*.png"))) == 2
