"""PixArt's transformer against `diffusers`, with size embeddings and without."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten

from ditq.models.base import Conditioning
from ditq.models.cost import layer_inputs, parameter_count
from ditq.models.loading import load_weights_into
from ditq.models.pixart import ALPHA, ALPHA_512, PixArt
from ditq.models.pixart.keymap import to_pixart
from ditq.models.state import run_block
from tests.models.pixart.small import CONFIGS, diffusers_model, inputs, reference_noise, state_arrays, to_mlx

CASES = [(1, 8, 8, 999.0), (3, 12, 16, 601.0), (2, 4, 20, 0.0), (1, 16, 4, 37.5)]
"""Batch, height, width, timestep: square, wide, flat; the ends of the schedule, and between two of its timesteps."""


def loaded(config, weights) -> PixArt:
    mapped = to_pixart(weights)
    assert mapped is not None
    pixart = PixArt(config)
    load_weights_into(pixart, mapped, "test")
    return pixart


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    config = CONFIGS[request.param]
    reference = diffusers_model(config)
    return config, reference, loaded(config, to_mlx(state_arrays(reference)))


def predicted(pixart, latents, text, mask, timestep) -> np.ndarray:
    conditioning = Conditioning(mx.array(text), mask=mx.array(mask))
    prepared = pixart.prepare(conditioning, mx.array([timestep]))
    return np.array(pixart(mx.array(latents), **prepared.at(0)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_noise_equals_diffusers(pair, case):
    config, reference, pixart = pair
    batch, height, width, timestep = case
    given = inputs(config, batch, height, width)
    wanted = reference_noise(reference, config, *given, timestep)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(predicted(pixart, *given, timestep) - wanted).max() <= 1e-4


@pytest.mark.parametrize("name", ["alpha", "alpha 512"])
def test_noise_of_a_picture_of_the_trained_size_equals_diffusers(name):
    """There `diffusers` takes positions from a table that it has made before."""
    config = replace(CONFIGS[name], sample_size=32)
    reference = diffusers_model(config)
    given = inputs(config, 1, config.sample_size, config.sample_size)
    got = predicted(loaded(config, to_mlx(state_arrays(reference))), *given, 500.0)
    assert np.abs(got - reference_noise(reference, config, *given, 500.0)).max() <= 1e-4


def test_blocks_one_by_one_equal_the_whole(pair):
    """Each block sees what the flow says is carried to it, and nothing else."""
    config, _, pixart = pair
    latents, text, mask = inputs(config, 2, 8, 12)
    conditioning = Conditioning(mx.array(text), mask=mx.array(mask))
    prepared = pixart.prepare(conditioning, mx.array([500.0])).at(0)
    state = pixart.begin(mx.array(latents), **prepared)
    given = pixart.given(mx.array([500.0, 500.0]), tokens=mx.array(text), mask=mx.array(mask))
    state = {name: array for name, array in state.items() if name not in given}
    flow = pixart.flow
    for number, block in enumerate(pixart.blocks):
        assert state.keys() == flow.carried(number).keys() == {"image", "modulation"}
        after = run_block(block, {**state, **given})
        state = {name: after[name] for name in flow.carried(number + 1)}
    got = np.array(pixart.finish({**state, **given}, 8, 12))
    assert np.abs(got - predicted(pixart, latents, text, mask, 500.0)).max() < 1e-5


def test_padding_changes_nothing(pair):
    config, _, pixart = pair
    latents, text, mask = inputs(config, 3, 8, 8)
    other = np.where(mask[..., None] > 0, text, 100 * np.random.default_rng(3).standard_normal(text.shape))
    got = predicted(pixart, latents, other.astype(np.float32), mask, 300.0)
    assert np.array_equal(got, predicted(pixart, latents, text, mask, 300.0))
    cut = predicted(pixart, latents[:1], text[:1, :3], mask[:1, :3], 300.0)
    assert np.abs(cut - got[:1]).max() < 1e-5


def test_a_batch_is_its_pictures(pair):
    config, _, pixart = pair
    given = inputs(config, 3, 8, 8)
    alone = [predicted(pixart, *(one[i : i + 1] for one in given), 300.0)[0] for i in range(3)]
    assert np.abs(predicted(pixart, *given, 300.0) - np.stack(alone)).max() < 1e-5


def test_prompts_at_several_steps_are_each_step_alone(pair):
    """As diagnostics run it: every step of a prompt in one batch."""
    config, _, pixart = pair
    latents, text, mask = inputs(config, 2, 8, 8)
    times = [999.0, 400.0, 3.0]
    conditioning = Conditioning(mx.array(text), mask=mx.array(mask))
    x = mx.repeat(mx.array(latents), 3, axis=0)
    together = np.array(pixart(x, **pixart.prepare(conditioning, mx.array(times)).pairs()))
    for step, timestep in enumerate(times):
        alone = predicted(pixart, latents, text, mask, timestep)
        assert np.abs(together[step::3] - alone).max() < 1e-5


@pytest.mark.parametrize(("config", "count"), [(ALPHA, 611_349_152), (ALPHA_512, 610_856_096)])
def test_the_full_size_architecture_equals_the_published_one(config, count):
    flat = dict(tree_flatten(PixArt(config).parameters()))  # lazy: nothing is allocated
    with torch.device("meta"):
        reference = diffusers_model(config, random=False).state_dict()
    assert parameter_count(PixArt(config)) == sum(one.numel() for one in reference.values()) == count
    shapes = sorted(tuple(sorted(tensor.shape)) for tensor in reference.values())
    assert sorted(tuple(sorted(array.shape)) for array in flat.values()) == shapes


def test_operations_are_those_of_the_layers():
    """Two per weight and token in the blocks, counted from the shapes of a pass, and the attentions by hand."""
    from ditq import capture

    pixart = PixArt(ALPHA)
    shapes, layers = layer_inputs(pixart, ALPHA.geometry(120), 128, 128), capture.layers(pixart)
    blocks = pixart.anatomy.paths("block")
    total = sum(2 * np.prod(shapes[path][:-1]) * layers[path].weight.size for path in blocks)
    total += 28 * 4 * 1152 * 4096 * (4096 + 120)
    assert pixart.step_flops(1, 128, 128, 120) == pytest.approx(total, rel=1e-9)
    assert pixart.step_flops(3, 128, 128, 120) == pytest.approx(3 * total, rel=1e-9)
