"""A small random Stable Diffusion folder through the commands that users type: calibrated, quantized, drawn."""

import json
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ditq.models.diffusionkit.sd1 as sd1
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
from ditq.models.unet import UNet
from ditq.nn import QuantizedConv2d, QuantizedLinear, clock_of
from tests.models.diffusionkit.small_sd1 import CONFIG, VAE_SHAPE, write_sd1

IN_BLOCKS = UNet(CONFIG).anatomy.paths("block")
CONVOLUTIONS = [path for path, one in capture.layers(UNet(CONFIG)).items() if isinstance(one, nn.Conv2d)]
MIXED = {
    "kind": "ditq.recipe",
    "version": 1,
    "layers": [
        {"roles": ["embedder", "modulation"], "method": "rtn", "bits": 8, "group_size": 32},
        {"roles": ["head"], "method": "gptq", "bits": 8, "group_size": 32},
        {"paths": ["mid_block.*"], "method": "qronos", "bits": 4, "group_size": 32},
        {"paths": ["up_blocks.0.*"], "method": "adaround", "bits": 4, "group_size": 32},
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
        patch.setitem(sd1.CONFIGS, "sd1.5", CONFIG)
        patch.setattr(sd1, "SD_VAE", VAE_SHAPE)
        yield write_sd1(tmp_path_factory.mktemp("sd1")).folder


@pytest.fixture(scope="module")
def model(small):
    return ["--model", "sd1.5", "--model-path", str(small)]


@pytest.fixture(scope="module")
def calibration(model, tmp_path_factory):
    """Recorded pictures."""
    folder = tmp_path_factory.mktemp("unet") / "calibration"
    flags = "--num-images 4 --steps 4 --size 64 --cfg-weight 3 --batch-size 2 --calib-dir"
    generate_calibration_data.main([*model, *flags.split(), str(folder)])
    return folder


@pytest.fixture(scope="module")
def folders(model, calibration, tmp_path_factory):
    """A checkpoint folder by each recipe."""
    place, made = tmp_path_factory.mktemp("checkpoints"), {}
    (place / "mixed.json").write_text(json.dumps(MIXED))
    for recipe in ("w4a8-rtn", "mixed"):
        name = str(place / "mixed.json") if recipe == "mixed" else recipe
        flags = ["--recipe", name, "--calib", str(calibration), "--out", str(place / recipe)]
        quantize.main([*model, *flags, "--num-images", "3", "--stride", "2"])
        made[recipe] = place / recipe
    return made


def test_samples_are_those_of_the_model(calibration):
    images = read_images(calibration)
    assert images.manifest["noise"] == "ddpm-scaled-linear"
    assert set(read_npz(calibration / "conditioning.npz")) == {"tokens"}
    assert read_npz(calibration / "samples" / "0000_000.npz")["x"].shape == (1, 8, 8, 4)


def test_every_layer_is_quantized_and_every_input_in_a_block_has_a_grid(folders):
    for out in folders.values():
        checkpoint = read_folder(out)
        assert set(checkpoint.weights) == set(UNet(CONFIG).anatomy.modules(UNet(CONFIG)))
        assert checkpoint.activations is not None and set(checkpoint.activations.grids) == set(IN_BLOCKS)
        report = read_json(out / "report.json")
        assert len(report["blocks"]) == len(UNet(CONFIG).blocks)
        assert all(np.isfinite(one["error"]) for one in report["blocks"])
    methods = read_json(folders["mixed"] / "config.json")["weight_quantization"]["layers"]
    assert set(CONVOLUTIONS) - {"conv_in"} <= methods.keys()


def test_calibrated_methods_beat_rounding_on_their_blocks(folders):
    for block in read_json(folders["mixed"] / "report.json")["blocks"]:
        assert block["error"] <= block["error_rounding"] * (1 + 1e-6)


def network_of(small):
    return load_model("sd1.5", small).network()


def drawn(network, small) -> np.ndarray:
    """One prediction at timestep 700."""
    if (clock := clock_of(network)) is not None:
        clock.follow(np.array([700.0]))
        clock.set(0)
    conditioning = load_model("sd1.5", small).encode(["the red fox", "snow"])
    latents = mx.array(np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32))
    return np.array(network(latents, **network.prepare(conditioning, mx.array([700.0])).at(0)))


def test_injected_layers_compute_what_the_folder_alone_computes(small, folders):
    network, alone = network_of(small), read_model(folders["mixed"])
    plain = drawn(network, small)
    # what stays float is stored in 16 bits: a difference that would move some inputs to other codes
    stored = mx.load(str(folders["mixed"] / "model.safetensors"))
    halves = {name: one.astype(mx.float32) for name, one in stored.items() if one.dtype == mx.float16}
    names = dict(tree_flatten(network.parameters())).keys() & halves.keys()
    network.load_weights([(name, halves[name]) for name in names], strict=False)
    inject(network, replace(read_folder(folders["mixed"]), made_from=None))
    assert isinstance(network.mid_block.resnets[0].conv1, QuantizedConv2d)
    assert isinstance(network.mid_block.attentions[0].transformer_blocks[0].attn2.to_k, QuantizedLinear)
    one = drawn(network, small)
    assert np.abs(one - drawn(alone, small)).max() < 1e-5
    assert 0 < np.linalg.norm(one - plain) / np.linalg.norm(plain) < 0.5


def test_linear_layers_are_read_by_plain_mlx(small, folders):
    """`nn.quantize` and `load_weights`, as every stock loader; convolutions are unpacked from the same layout."""
    config = read_json(folders["mixed"] / "config.json")["quantization"]
    stored = dict(mx.load(str(folders["mixed"] / "model.safetensors")))
    network, kernels = UNet(CONFIG), {}
    layers = capture.layers(network)
    for path in set(CONVOLUTIONS) & config.keys():
        parts = (stored.pop(f"{path}.{part}") for part in ("weight", "scales", "biases"))
        grid = {key: config[path][key] for key in ("group_size", "bits")}
        kernels[f"{path}.weight"] = mx.dequantize(*parts, **grid).reshape(layers[path].weight.shape)
    nn.quantize(
        network,
        class_predicate=lambda path, one: config.get(path, False) if isinstance(one, nn.Linear) else False,
    )
    network.load_weights([*stored.items(), *kernels.items()])
    wanted = read_model(folders["mixed"], activations=False)
    got, expected = drawn(network, small), drawn(wanted, small)
    assert len(kernels) == len(CONVOLUTIONS) - 1
    assert np.abs(got - expected).mean() < 0.01 * np.abs(expected).mean()


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
    flags = [
        "--prompt",
        "the red fox",
        "--output-image",
        str(tmp_path / "fox.png"),
        "--steps",
        "2",
        "--size",
        "64",
    ]
    load_adaround_model.main([*source, *flags])
    assert set(load(run, config).weights) == set(load(out).weights) == set(IN_BLOCKS)
    assert (tmp_path / "fox.png").exists()


def test_pictures_are_drawn_with_quantized_weights_and_activations(model, folders, tmp_path):
    for name, checkpoint in (("float", []), ("w4a8", ["--checkpoint", str(folders["mixed"])])):
        flags = ["--out", str(tmp_path / name), "--steps", "3", "--size", "64", *checkpoint]
        generate.main([*model, "the red fox", "snow", *flags])
        assert len(list((tmp_path / name).glob("*.png"))) == 2


def test_a_folder_holds_what_its_network_has(folders):
    stored = dict(mx.load(str(folders["w4a8-rtn"] / "model.safetensors")))
    floats = {name for name, _ in tree_flatten(UNet(CONFIG).parameters())}
    assert floats - stored.keys() == set()
    conv = stored["down_blocks.0.resnets.0.conv1.weight"]
    assert conv.dtype == mx.uint32 and conv.shape == (32, 9 * 32 * 4 // 32)
