"""Errors along the float model's trajectories: plain loops, closed forms, and what is kept on disk."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint import QuantizedModel
from ditq.core.activation_grid import GridRows, TimestepGrid
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.evaluation import quantized_variant, rounded
from ditq.evaluation.layer_errors import measured, relative
from ditq.evaluation.teacher_forced import changed_layers, errors_along, inner_steps, trajectory
from ditq.evaluation.trajectory_curves import curves_of, measure_along_trajectories, units
from ditq.models.state import run_block
from ditq.nn import clock_of
from ditq.sampling.generate import settings_for
from tests.evaluation.toy import ConvToy, Toy


def by_norms(pairs) -> float:
    wrong = sum(np.square(np.array(a, np.float64) - np.array(b, np.float64)).sum() for a, b in pairs)
    return float(np.sqrt(wrong / sum(np.square(np.array(b, np.float64)).sum() for _, b in pairs)))


def guided(model, x, step, settings, prompt):
    """The prediction of a network called by hand, two calls and no Denoiser."""
    timesteps = settings.process.timesteps(settings.sigmas[:-1])
    network, outputs = model.network(), []
    if clock_of(network) is not None:
        clock_of(network).follow(timesteps)
        clock_of(network).set(step)
    for text in (prompt, settings.negative):
        inputs = network.prepare(model.encode([text]), mx.array(timesteps)).at(step)
        outputs.append(network(x, **inputs))
    return outputs[1] + settings.guidance * (outputs[0] - outputs[1])


def static_grids(model, checkpoint, timesteps):
    """An 8-bit grid for the input of each quantized layer of the blocks, the same at each timestep."""
    ones = mx.ones(len(timesteps))
    rows = GridRows(0.05 * ones, -128 * ones, 127 * ones)
    return ActivationTable(timesteps, {path: TimestepGrid(timesteps, rows) for path in checkpoint.weights})


@pytest.mark.parametrize("activations", [False, True])
def test_predictions_and_latents_are_those_of_plain_loops(activations):
    model = Toy()
    settings = settings_for(model, steps=4)
    checkpoint = rounded(model, Spec(3))
    timesteps = settings.process.timesteps(settings.sigmas[:-1]).astype(np.float32)
    if activations:
        checkpoint = replace(checkpoint, activations=static_grids(model, checkpoint, timesteps))
    small = QuantizedModel(model, checkpoint, activations)
    known = trajectory(model, "one", 4, settings)
    found = errors_along(model, small, known, "one", 4, settings)
    x = own = mx.array(np.random.default_rng(4).standard_normal((1, 8, 8, 4), dtype=np.float32))
    for step in range(4):
        np.testing.assert_allclose(known.latents[step], np.array(x[0]), rtol=1e-4, atol=1e-4)
        velocity, ours = (guided(one, x, step, settings, "one") for one in (model, small))
        assert relative(found.prediction[step]) == pytest.approx(by_norms([(ours, velocity)]), rel=1e-3)
        change = float(settings.sigmas[step + 1] - settings.sigmas[step])
        x, own = x + change * velocity, own + change * guided(small, own, step, settings, "one")
        assert relative(found.latents[step]) == pytest.approx(by_norms([(own, x)]), rel=1e-3)
    np.testing.assert_allclose(known.latents[4], np.array(x[0]), rtol=1e-4, atol=1e-4)
    assert relative(found.prediction[0]) > 0.01


@pytest.mark.parametrize("kind", [Toy, ConvToy])
def test_blocks_and_layers_are_given_what_the_float_model_gets(kind):
    model = kind()
    settings = settings_for(model, steps=3)
    small = QuantizedModel(model, rounded(model, Spec(3)), activations=False)
    known = trajectory(model, "two", 5, settings)
    found = errors_along(model, small, known, "two", 5, settings)
    network, quantized = model.network(), small.network()
    assert found.inner_steps == [0, 1, 2]
    assert set(found.layers) == set(small.checkpoint.weights)
    timesteps = settings.process.timesteps(settings.sigmas[:-1])
    inputs = network.prepare(model.encode(["two", ""]), mx.array(timesteps)).at(1)
    seen = {}
    x = mx.array(np.stack([known.latents[1]] * 2))
    with capture.traced(network, list(found.layers), seen.__setitem__):
        states = list(network.boundaries(x, **inputs))
    for block, pairs in enumerate(found.blocks):
        ours = run_block(quantized.blocks[block], states[block])
        wanted = [(ours[name], states[block + 1][name]) for name in measured(network.flow, block)]
        assert relative(pairs[1]) == pytest.approx(by_norms(wanted), rel=1e-4)
    for path, pairs in found.layers.items():
        one, other = (capture.module_at(net, path)(seen[path]) for net in (quantized, network))
        assert relative(pairs[1]) == pytest.approx(by_norms([(one, other)]), rel=1e-4)


def test_a_scaled_layer_has_the_error_that_its_scale_says():
    """Every weight times 1.25, no bias: the layer's output is wrong by exactly a quarter, at every step."""
    model = Toy()
    settings = settings_for(model, steps=3)
    checkpoint = rounded(model, Spec(8))
    path = next(path for path in checkpoint.weights if path.endswith("k_proj"))
    layer = capture.layers(model.network())[path]
    layer.bias = mx.zeros_like(layer.bias) if "bias" in layer else None
    whole = mx.round(mx.random.uniform(-100, 100, layer.weight.shape))
    layer.weight = 0.004 * whole
    weight = replace(
        checkpoint.weights[path],
        codes=whole.astype(checkpoint.weights[path].codes.dtype),
        scale=mx.full(checkpoint.weights[path].scale.shape, 0.005),
        zero=mx.zeros_like(checkpoint.weights[path].zero),
    )
    small = QuantizedModel(model, replace(checkpoint, weights={path: weight}), activations=False)
    found = errors_along(model, small, trajectory(model, "one", 1, settings), "one", 1, settings)
    assert list(found.layers) == [path]
    np.testing.assert_allclose([relative(pair) for pair in found.layers[path]], 0.25, rtol=1e-4)


def test_the_float_model_against_itself_is_without_error():
    model = Toy()
    settings = settings_for(model, steps=2)
    small = QuantizedModel(model, replace(rounded(model, Spec(8)), weights={}), activations=False)
    found = errors_along(model, small, trajectory(model, "one", 1, settings), "one", 1, settings)
    assert changed_layers(model.network(), small.network()) == {} == found.layers
    curves = curves_of("same", [found], settings)
    assert curves.prediction_error == 0 and not any(curves.latents) and not np.any(curves.blocks)


def test_trajectories_are_pooled_and_kept(tmp_path):
    model = Toy()
    settings = settings_for(model, steps=2)
    variants = [
        quantized_variant(f"W{bits}", model, rounded(model, Spec(bits)), activations=False) for bits in (3, 8)
    ]
    counts = []
    asked = (model, variants, ["one", "two"], [1, 2], settings, tmp_path)
    first = measure_along_trajectories(*asked, counts.append)
    assert sum(counts) == units(2, 2)
    small = QuantizedModel(model, rounded(model, Spec(3)), activations=False)
    parts = [
        errors_along(model, small, trajectory(model, prompt, seed, settings), prompt, seed, settings)
        for prompt, seed in (("one", 1), ("two", 2))
    ]
    assert first[0] == curves_of("W3", parts, settings)
    low, high = first[0].prediction_range[0]
    assert low < first[0].prediction[0] < high
    assert first[1].prediction_error < 0.1 * first[0].prediction_error
    assert first[0].worst_layers[0][1] == max(np.mean(v) for v in first[0].layers.values())
    stored = tmp_path / "w3" / "00001.json"
    before = stored.read_bytes()
    stored.write_bytes(before[:50])
    (tmp_path / "float_trajectories" / "00001.npz").unlink()
    assert measure_along_trajectories(*asked) == first
    assert stored.read_bytes() == before
    with pytest.raises(UserError, match="seeds"):
        measure_along_trajectories(model, variants, ["one", "two"], [1, 3], settings, tmp_path)


def test_inner_steps_are_spread_over_the_run():
    assert inner_steps(28) == [0, 4, 8, 12, 15, 19, 23, 27]
    assert inner_steps(3) == [0, 1, 2] and inner_steps(1) == [0]
