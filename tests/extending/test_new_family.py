"""A family that nothing outside its own file knows goes the whole way, by the commands that users type."""

import json

import mlx.core as mx
import numpy as np
import pytest

from ditq import capture, models
from ditq.calibration import read_images
from ditq.checkpoint import inject, load, read_folder, read_model
from ditq.cli import (
    adaround_optimize,
    analyze_activations,
    benchmark,
    cache_adaround_data,
    collect_layer_activations,
    export_checkpoint,
    generate,
    generate_calibration_data,
    load_adaround_model,
    quantize,
)
from ditq.core.files import read_json, read_npz
from ditq.models.cost import layer_inputs
from ditq.nn import clock_of
from tests.extending.toy_family import ANATOMY, Toy, ToyConfig, ToyNetwork

IN_BLOCKS = ANATOMY.paths("block")
EVERYTHING = {
    "kind": "ditq.recipe",
    "version": 1,
    "layers": [
        {"paths": ["time_embedder"], "method": "rtn", "bits": 8},
        {"paths": ["text_embedder", "head"], "method": "qronos", "bits": 8},
        {"roles": ["convolution"], "method": "qronos", "bits": 4, "group_size": 32},
        {"roles": ["mlp_out"], "method": "adaround", "bits": 4},
        {"paths": ["*"], "method": "gptq", "bits": 4},
    ],
    "methods": {"adaround": {"iterations": 4, "batch_size": 4}},
    "activations": {"bits": 8},
}


@pytest.fixture(scope="module")
def toy():
    """The model in the two public tables, and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models.MODELS, "toy", Toy)
        patch.setitem(models.FAMILIES, "toy", lambda: (ToyConfig, ToyNetwork))
        yield Toy()


@pytest.fixture(scope="module")
def calibration(toy, tmp_path_factory):
    """Recorded pictures."""
    folder = tmp_path_factory.mktemp("toy") / "calibration"
    flags = "--model toy --num-images 4 --steps 6 --cfg-weight 3 --batch-size 2 --calib-dir"
    generate_calibration_data.main([*flags.split(), str(folder)])
    return folder


@pytest.fixture(scope="module")
def folders(calibration, tmp_path_factory):
    """A checkpoint folder by each recipe."""
    place, made = tmp_path_factory.mktemp("checkpoints"), {}
    everything = place / "everything.json"
    everything.write_text(json.dumps(EVERYTHING))
    for recipe in ("w4a8-rtn", "w4a8-gptq", "w4a8-qronos", "everything"):
        name = str(everything) if recipe == "everything" else recipe
        out = place / recipe
        flags = ["--model", "toy", "--recipe", name, "--calib", str(calibration), "--out", str(out)]
        amounts = "--num-images 3 --stride 2 --statistics-images 3 --statistics-stride 1"
        quantize.main([*flags, *amounts.split()])
        made[recipe] = out
    return made


def test_samples_and_conditioning_are_those_of_the_model(toy, calibration):
    images = read_images(calibration)
    assert images.manifest["noise"] == "ddpm-linear" and images.manifest["sampler"] == "ddim"
    assert set(read_npz(calibration / "conditioning.npz")) == {"tokens"}
    sample = read_npz(calibration / "samples" / "0000_000.npz")
    assert sample["x"].shape == (1, 8, 8, 4) and sample["timestep"] == 999 == images.timesteps([0])[0]


def test_every_recipe_quantizes_every_layer_of_its_lines(folders):
    for out in folders.values():
        checkpoint = read_folder(out)
        assert set(checkpoint.weights) == {*IN_BLOCKS, "time_embedder", "text_embedder", "head"}
        assert set(checkpoint.activations.grids) == set(IN_BLOCKS)
        report = read_json(out / "report.json")
        assert len(report["blocks"]) == 3 and all(np.isfinite(one["error"]) for one in report["blocks"])


def test_calibrated_methods_beat_rounding_on_their_blocks(folders):
    def error(recipe):
        return np.mean([block["error"] for block in read_json(folders[recipe] / "report.json")["blocks"]])

    assert error("w4a8-gptq") < error("w4a8-rtn") and error("w4a8-qronos") < error("w4a8-rtn")


def test_keys_and_values_were_calibrated_on_the_words(toy, folders):
    """Their inputs are as wide as the pixels': a guess by name would go unnoticed."""
    grids = read_folder(folders["w4a8-rtn"]).activations.grids
    key, value, query = (grids[f"parts.1.{name}"] for name in "kvq")
    assert mx.array_equal(key.rows.scale, value.rows.scale)
    assert not mx.array_equal(key.rows.scale, query.rows.scale)


def test_the_folder_gives_back_the_codes_of_a_convolution(toy, folders):
    checkpoint = read_folder(folders["everything"])
    weight = checkpoint.weights["parts.0.conv"]
    assert weight.shape == (32, 9 * 32) and weight.spec.group_size == 32
    float_weight = capture.matrix(toy.network().parts[0].conv)
    assert mx.abs(weight.values() - float_weight).max().item() < 0.5 * mx.abs(float_weight).max().item()
    config = read_json(folders["everything"] / "config.json")
    assert config["model_type"] == "toy" and config["quantization"]["parts.0.conv"]["bits"] == 4


def test_injected_layers_compute_what_the_folder_alone_computes(toy, folders):
    checkpoint, alone = read_folder(folders["everything"]), read_model(folders["everything"])
    network = capture.sharing(toy.network())
    inject(network, checkpoint)
    inputs = network.prepare(toy.encode(["one", "two"]), mx.array([700.0]))
    x = mx.array(np.random.default_rng(0).standard_normal((2, 8, 8, 4)).astype(np.float32))
    outputs = []
    for one in (network, alone):
        clock_of(one).follow(np.array([700.0]))
        clock_of(one).set(0)
        outputs.append(np.array(one(x, **inputs.at(0))))
    # what stays float is stored in 16 bits
    assert np.abs(outputs[0] - outputs[1]).mean() < 0.005 * np.abs(outputs[0]).mean()
    plain = np.array(
        toy.network()(x, **toy.network().prepare(toy.encode(["one", "two"]), mx.array([700.0])).at(0))
    )
    error = np.linalg.norm(outputs[0] - plain) / np.linalg.norm(plain)
    assert 0 < error < 0.5


def test_both_tracks_of_the_documents_go_the_whole_way(toy, calibration, tmp_path):
    cache, run, out = calibration / "adaround_cache", tmp_path / "run", tmp_path / "exported"
    cache_adaround_data.main(["--calib-dir", str(calibration), "--num-images", "3", "--stride", "2"])
    collect_layer_activations.main(["--calib-dir", str(calibration), "--num-images", "3"])
    stats = calibration / "activations" / "layer_statistics.json"
    analyze_activations.main(["--stats", str(stats), "--bits", "8"])
    config = stats.with_name("quant_config.json")
    track = ["--cache-dir", str(cache), "--output-dir", str(run), "--iters", "5", "--batch-size", "4"]
    adaround_optimize.main([*track, "--quant-config", str(config)])
    source = ["--adaround-output", str(run), "--quant-config", str(config)]
    export_checkpoint.main([*source, "--out", str(out)])
    flags = ["--prompt", "a fox", "--output-image", str(tmp_path / "fox.png"), "--steps", "3", "--compare"]
    load_adaround_model.main([*source, *flags])
    assert set(load(run, config).weights) == set(load(out).weights) == set(IN_BLOCKS)
    assert (tmp_path / "fox.png").exists() and (tmp_path / "fox_comparison.png").exists()


def test_pictures_are_drawn_and_scored(toy, folders, tmp_path):
    generate.main(["--model", "toy", "one", "two", "--out", str(tmp_path / "pictures"), "--steps", "3"])
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    flags = ["--model", "toy", "--checkpoint", str(folders["w4a8-gptq"]), "--num-images", "2", "--steps", "3"]
    benchmark.main([*flags, "--out", str(tmp_path / "results")])
    report = read_json(tmp_path / "results" / "report.json")
    assert report["model"] == "toy" and len(report["variants"]) == 2


def test_shapes_of_a_pass_are_known_without_weights(toy):
    shapes = layer_inputs(toy.skeleton(), toy.geometry, 8, 8)
    assert shapes["parts.1.k"] == (1, 5, 32) and shapes["parts.2.mix"] == (1, 8, 8, 64)
