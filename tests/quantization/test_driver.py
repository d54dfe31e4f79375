"""A recipe's run: every layer by its own line, one driver for all methods, and the same result after a kill."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.calibration import CacheRecipe, cache_blocks, read_block_cache
from ditq.checkpoint import QuantizedModel
from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.recipe import blocks_alone, plain_recipe, recipe_from
from ditq.core.spec import Spec
from ditq.evaluation import fingerprint_of
from ditq.evaluation.layer_errors import errors_of, spread_samples
from ditq.quantization import Calibration, WeightTrack, assigned, quantize, quantize_weights
from ditq.quantization.forecast import forecast
from ditq.weights import RTN
from tests.calibration.test_block_cache import calibrated
from tests.sampling.test_generate import Small

MIXED = {
    "kind": "ditq.recipe",
    "version": 1,
    "layers": [
        {"paths": ["final_layer.linear", "context_embedder"], "method": "qronos", "bits": 8},
        {"paths": ["t_embedder.*", "y_embedder.*"], "method": "rtn", "bits": 8},
        {"paths": ["*.adaLN_modulation.*"], "method": "gptq", "bits": 4, "symmetric": False},
        {"paths": ["*_blocks.1.*.fc2"], "method": "float"},
        {"paths": ["*.fc2"], "method": "rtn", "bits": 8},
        {"paths": ["*_blocks.1.*"], "method": "adaround", "bits": 3},
        {"paths": ["*"], "method": "qronos", "bits": 4, "group_size": 32},
    ],
    "methods": {"adaround": {"iterations": 3, "batch_size": 4}, "qronos": {"damping": 0.01}},
}


class Kept(Small):
    """Small, whose network is made once."""

    def __init__(self):
        super().__init__()
        self.kept = super().network()
        self.network = lambda: self.kept


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A model and its calibration."""
    folder, model = tmp_path_factory.mktemp("calibration"), Kept()
    images = calibrated(folder, model)
    cache_blocks(model, images, CacheRecipe(3, 2, "float32", 2), folder / "cache")
    return model, Calibration(images, read_block_cache(folder / "cache"))


def mixed():
    return recipe_from(MIXED, "mixed", "mixed.json")


def test_every_layer_gets_its_own_line(given, tmp_path):
    model, calibration = given
    made = quantize(model, mixed(), calibration, tmp_path)
    anatomy = model.kept.anatomy
    rules = mixed().assign(anatomy.site(path) for path in anatomy.modules(model.kept))
    expected = {path: rule for path, rule in rules.items() if rule.spec}
    assert {path: weight.spec for path, weight in made.weights.items()} == {
        path: rule.spec for path, rule in expected.items()
    }
    report = read_json(tmp_path / "report.json")
    assert {path: line["method"] for path, line in report["layers"].items()} == {
        path: rule.method for path, rule in expected.items()
    }
    solved = [line for line in report["layers"].values() if line["method"] in ("gptq", "qronos")]
    assert solved and all({"damping", "error", "error_rounding", "fallback"} <= set(line) for line in solved)
    assert made.meta["methods"]["qronos"] == 20 and len(report["blocks"]) == 3
    layers = QuantizedModel(model, made, activations=False).network()
    np.testing.assert_allclose(
        np.array(layers.context_embedder.weight), np.array(made.weights["context_embedder"].effective())
    )


def test_a_resumed_run_gives_the_same_codes(given, tmp_path):
    model, calibration = given
    whole = quantize(model, mixed(), calibration, tmp_path / "whole")
    stop = RuntimeError("killed")

    def killed(block, report):
        if block == 1:
            raise stop

    with pytest.raises(RuntimeError, match="killed"):
        quantize(model, mixed(), calibration, tmp_path / "cut", on_block=killed)
    with pytest.raises(UserError, match="earlier run"):
        quantize(model, mixed(), calibration, tmp_path / "cut")
    resumed = quantize(model, mixed(), calibration, tmp_path / "cut", resume=True)
    assert fingerprint_of(resumed) == fingerprint_of(whole)
    assert read_json(tmp_path / "cut" / "report.json") == read_json(tmp_path / "whole" / "report.json")
    for name in ("mm0.npz", "mm1.npz", "mm2.npz", "before.npz", "after.npz"):
        files = [(tmp_path / run / "weights" / name).read_bytes() for run in ("whole", "cut")]
        assert files[0] == files[1], name
    other = plain_recipe("other", "rtn", Spec(4))
    with pytest.raises(UserError, match="recipe: got"):
        quantize(model, other, calibration, tmp_path / "cut", resume=True)


def test_one_method_is_the_weight_track(given, tmp_path):
    model, calibration = given
    made = quantize(model, plain_recipe("rtn", "rtn", Spec(4)), calibration, tmp_path / "recipe")
    track = WeightTrack(RTN(), Spec(4), activation_bits=16)
    config = quantize_weights(model.kept, calibration.cache, track, tmp_path / "track")
    report = read_json(tmp_path / "recipe" / "report.json")
    assert [b["error"] for b in report["blocks"]] == [b["error"] for b in config["per_block"]]
    for number in range(3):
        arrays = [np.load(tmp_path / run / "weights" / f"mm{number}.npz") for run in ("recipe", "track")]
        for key in arrays[0].files:
            if key != "__meta__":
                np.testing.assert_array_equal(arrays[0][key], arrays[1][key])
    assert set(made.weights) == set(model.kept.anatomy.paths("block"))


def test_quantized_conditioning_reaches_the_blocks(given, tmp_path):
    """With coarse adaLN, Qronos in the blocks is nearer to the float model than without knowing of it."""
    model, calibration = given
    lines = [
        {"paths": ["*.adaLN_modulation.*"], "method": "rtn", "bits": 3},
        {"paths": ["*_blocks.*"], "method": "qronos", "bits": 8},
        {"paths": ["*"], "method": "float"},
    ]
    both = recipe_from({"kind": "ditq.recipe", "version": 1, "layers": lines}, "both", "r")
    knows = quantize(model, both, calibration, tmp_path / "knows")
    blind = quantize(model, plain_recipe("b", "qronos", Spec(8)), calibration, tmp_path / "blind")
    samples = spread_samples(calibration.images, [0, 1, 2], 3)
    without = type(knows)(knows.model, {**knows.weights, **blind.weights})
    found = [errors_of(model.kept, made, calibration.images, samples).block for made in (knows, without)]
    assert found[0] < found[1]


def test_the_first_blocks_alone(given, tmp_path):
    model, calibration = given
    anatomy = model.kept.anatomy
    recipe = blocks_alone(plain_recipe("q", "qronos", Spec(4)), anatomy.blocks, anatomy.first_blocks(1))
    made = quantize(model, recipe, calibration, tmp_path)
    assert {path.split(".")[1] for path in made.weights} == {"0"}
    assert not (tmp_path / "weights" / "mm1.npz").exists()


@pytest.mark.parametrize(
    ("lines", "methods", "says"),
    [
        ([{"paths": ["*_blocks.*"], "method": "awq", "bits": 4}], {}, "recipe r: got awq"),
        ([], {"rtn": {"x": 1}}, "recipe r: rtn: got x"),
        ([], {}, "recipe r: got no layer that is quantized"),
        (
            [{"paths": ["context_*"], "method": "adaround", "bits": 4}],
            {},
            "which works on the layers of blocks",
        ),
        (
            [{"paths": ["y_embedder.*"], "method": "rtn", "bits": 4, "group_size": 32}],
            {},
            "recipe r: y_embedder.mlp.layers.0: in_features 48 is not divisible",
        ),
    ],
)
def test_recipes_that_do_not_fit_are_explained_before_anything_runs(given, lines, methods, says):
    content = {
        "kind": "ditq.recipe",
        "version": 1,
        "methods": methods,
        "layers": [*lines, {"paths": ["*"], "method": "float"}],
    }
    with pytest.raises(UserError) as caught:
        assigned(given[0].kept, recipe_from(content, "r", "r"))
    assert says in str(caught.value)


def test_forecast_counts_layers_rows_and_bytes(given):
    model, calibration = given
    told = forecast(model, mixed(), calibration.cache.meta)
    assert told.layers == {"qronos": 20, "rtn": 7, "gptq": 7, "adaround": 10}
    assert told.rows == len(calibration.cache) and told.cost.rows > 0
    streams = len(calibration.cache) * (16 + 7) * 64 * 4
    assert told.cost.memory > 4 * streams
    files = sum(path.stat().st_size for path in (calibration.cache.folder / "samples").iterdir())
    assert told.cache == pytest.approx(files, rel=0.1)


def test_layer_errors_are_those_of_the_outputs(given, tmp_path):
    model, calibration = given
    made = quantize(model, plain_recipe("rtn", "rtn", Spec(3)), calibration, tmp_path)
    images, path = calibration.images, "multimodal_transformer_blocks.0.text_transformer_block.attn.q_proj"
    errors = errors_of(model.kept, made, images, [(0, 0)])
    conditioning = images.conditioning([0])
    text = model.kept.context_embedder(conditioning.tokens)
    timesteps = mx.array([1000 * images.sigmas[0]] * 2)
    modulation = model.kept.given(timesteps, pooled=conditioning.pooled)["modulation.0"][:, None]
    shift, scale = mx.split(modulation, modulation.shape[-1] // 64, axis=-1)[6:8]
    x = np.array(text)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    x = x * (1 + np.array(scale)) + np.array(shift)
    layer = model.kept.anatomy.modules(model.kept)[path]
    weight, there = np.array(layer.weight), np.array(made.weights[path].values())
    y = x @ weight.T + np.array(layer.bias)
    expected = np.linalg.norm(x @ (there - weight).T) / np.linalg.norm(y)
    assert errors.layers[path] == pytest.approx(expected, rel=1e-4)
    assert len(errors.blocks) == 3 and 0 < errors.blocks[0] < errors.blocks[2] < 1
