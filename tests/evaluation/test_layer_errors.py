"""Errors of layers and blocks against a pass computed by hand."""

import mlx.core as mx
import numpy as np
import pytest

from ditq import capture
from ditq.calibration import ImageSet
from ditq.core.spec import Spec
from ditq.evaluation import rounded
from ditq.evaluation.layer_errors import errors_of, measured, spread_samples
from ditq.models.state import run_block
from tests.evaluation.toy import PROMPTS, ConvToy, Toy

SAMPLES = [(0, 0), (1, 2)]


class Pictures(ImageSet):
    """Recorded pictures of which the errors need but the noise levels."""

    def __init__(self, model, levels):
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "manifest", {"sigmas": [*levels, 0.0]})


def given(network, images, chosen, step):
    """In place of recorded pictures: latents and prompts that depend on picture and step."""
    (image,) = chosen
    model, rng = images.model, np.random.default_rng([image, step])
    latents = mx.array(rng.standard_normal((1, 8, 8, 4)).astype(np.float32))
    inputs = network.prepare(model.encode(PROMPTS[image : image + 1]), mx.array([300.0 * (step + 1)]))
    return latents, inputs.at(0)


@pytest.fixture
def images(monkeypatch):
    monkeypatch.setattr("ditq.evaluation.layer_errors.replay_inputs", given)
    return lambda model: Pictures(model, [1.0, 0.7, 0.4])


def relative(pairs) -> float:
    pairs = [(np.array(a, np.float64), np.array(b, np.float64)) for a, b in pairs]
    wrong = sum(np.square(a - b).sum() for a, b in pairs)
    return float(np.sqrt(wrong / sum(np.square(b).sum() for _, b in pairs)))


@pytest.mark.parametrize(("kind", "array"), [(Toy, "image"), (ConvToy, "features")])
def test_errors_are_those_of_a_pass_by_hand(kind, array, images):
    model = kind()
    network, checkpoint = model.network(), rounded(model, Spec(3))
    found = errors_of(network, checkpoint, images(model), SAMPLES)
    layers = capture.layers(network)
    quantized = {
        path: capture.with_weight(layers[path], weight.effective())
        for path, weight in checkpoint.weights.items()
    }
    behind, of_layers = [[], []], {path: [] for path in quantized}
    for image, step in SAMPLES:
        latents, inputs = given(network, images(model), [image], step)
        inputs_seen = {}
        with capture.traced(network, list(quantized), lambda path, x: inputs_seen.__setitem__(path, x)):  # noqa: B023
            mx.eval(network(latents, **inputs))
        for path, x in inputs_seen.items():
            of_layers[path].append((quantized[path](x), layers[path](x)))
        for swaps, kept in (({}, behind[0]), (quantized, behind[1])):
            with capture.swapped(network, swaps):
                state = network.begin(latents, **inputs)
                states = []
                for block in network.blocks:
                    state = run_block(block, state)
                    states.append(np.array(state[array]))
            kept.append(states)
    wanted = [
        relative([(ours[k], floats[k]) for ours, floats in zip(behind[1], behind[0], strict=True)])
        for k in (0, 1)
    ]
    np.testing.assert_allclose(found.blocks, wanted, rtol=1e-5)
    np.testing.assert_allclose(found.block, np.mean(wanted), rtol=1e-5)
    assert set(found.layers) == set(quantized)
    for path, pairs in of_layers.items():
        assert found.layers[path] == pytest.approx(relative(pairs), rel=1e-4), path
    assert found.layer == pytest.approx(np.mean(list(found.layers.values())))
    assert found.layer > 0.05 and all(error > 0.01 for error in found.blocks)


def test_a_block_is_measured_by_what_becomes_the_prediction():
    flow = Toy().network().flow
    assert [measured(flow, block) for block in range(flow.blocks)] == [("image",), ("image",)]
    flow = ConvToy().network().flow
    assert [measured(flow, block) for block in range(flow.blocks)] == [("features",), ("features",)]
    skips = type(flow)(
        reads=(("x",), ("x",), ("a", "b")),
        writes=(("a",), ("b", "unread"), ("y",)),
        begun=("x",),
        results=("y",),
    )
    assert [measured(skips, block) for block in range(3)] == [("a",), ("b",), ("y",)]


def test_samples_are_spread_over_the_steps():
    images = Pictures(None, [0.5] * 28)
    assert spread_samples(images, [3, 5], 4) == [(p, s) for p in (3, 5) for s in (0, 9, 18, 27)]
    assert spread_samples(images, [0], 1) == [(0, 0)]
