"""The UNet against `diffusers`, through each checkpoint layout."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten

from ditq.models.base import Conditioning
from ditq.models.loading import load_weights_into
from ditq.models.state import run_block
from ditq.models.unet import SD1, UNet
from ditq.models.unet.keymap import to_unet
from tests.models.unet.small import CONFIGS, SMALL, diffusers_model, inputs, state_arrays, to_mlx

CASES = [(1, 8, 8, 999.0), (3, 12, 16, 601.0), (2, 4, 20, 0.0), (1, 16, 4, 37.5)]
"""Batch, height, width, timestep: square, wide, flat; the ends of the schedule, and between two of its timesteps."""


def loaded(config, weights) -> UNet:
    mapped = to_unet(weights, config)
    assert mapped is not None
    unet = UNet(config)
    load_weights_into(unet, mapped, "test")
    return unet


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request):
    config = CONFIGS[request.param]
    reference = diffusers_model(config)
    return config, reference, loaded(config, to_mlx(state_arrays(reference)))


def predicted(unet, latents, text, timestep) -> np.ndarray:
    prepared = unet.prepare(Conditioning(mx.array(text)), mx.array([timestep]))
    return np.array(unet(mx.array(latents), **prepared.at(0)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_noise_equals_diffusers(pair, case):
    config, reference, unet = pair
    batch, height, width, timestep = case
    latents, text = inputs(config, batch, height, width)
    with torch.no_grad():
        given = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy()), torch.from_numpy(text)
        wanted = reference(given[0], torch.tensor(timestep), given[1], return_dict=False)[0].numpy()
    got = predicted(unet, latents, text, timestep)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(got - wanted.transpose(0, 2, 3, 1)).max() <= 1e-4


def test_blocks_one_by_one_equal_the_whole(pair):
    """Each block sees what the flow says is carried to it, and nothing else."""
    config, _, unet = pair
    latents, text = inputs(config, 2, 8, 8)
    prepared = unet.prepare(Conditioning(mx.array(text)), mx.array([500.0])).at(0)
    state = unet.begin(mx.array(latents), **prepared)
    given = unet.given(mx.array([500.0, 500.0]), tokens=mx.array(text))
    state = {name: array for name, array in state.items() if name not in given}
    flow = unet.flow
    for number, block in enumerate(unet.blocks):
        assert state.keys() == flow.carried(number).keys()
        after = run_block(block, {**state, **given})
        state = {name: after[name] for name in flow.carried(number + 1)}
    assert list(state) == ["image"]
    got = np.array(unet.finish({**state, **given}, 8, 8))
    assert np.abs(got - predicted(unet, latents, text, 500.0)).max() < 1e-5


def test_what_resnets_are_told_in_a_run_is_that_of_its_steps():
    unet, times = UNet(SMALL), (999.0, 601.5, 1.0)
    text = mx.array(inputs(SMALL, 2, 8, 8)[1])
    run = unet.prepare(Conditioning(text), mx.array(times)).by_step["time"]
    assert run.shape == (3, 2, sum(resnet.conv1.weight.shape[0] for resnet in unet.resnets))
    for step, timestep in enumerate(times):
        rows = unet.given(mx.array([timestep] * 2), tokens=text)
        told = mx.concatenate([array for name, array in rows.items() if name != "text"], axis=-1)
        assert np.allclose(run[step], told, atol=1e-5)


def test_a_batch_is_its_pictures(pair):
    config, _, unet = pair
    latents, text = inputs(config, 3, 8, 8)
    alone = [predicted(unet, latents[i : i + 1], text[i : i + 1], 300.0)[0] for i in range(3)]
    assert np.abs(predicted(unet, latents, text, 300.0) - np.stack(alone)).max() < 1e-5


def test_the_full_size_architecture_equals_the_published_one():
    flat = dict(tree_flatten(UNet(SD1).parameters()))  # lazy: nothing is allocated
    with torch.device("meta"):
        reference = diffusers_model(SD1, random=False).state_dict()
    count = sum(array.size for array in flat.values())
    assert count == sum(tensor.numel() for tensor in reference.values()) == 859_520_964
    shapes = sorted(tuple(sorted(tensor.shape)) for tensor in reference.values())
    assert sorted(tuple(sorted(array.shape)) for array in flat.values()) == shapes


def test_operations_are_those_of_the_layers():
    """Two per weight and pixel, counted from the shapes of a pass, and the attentions by hand."""
    from ditq import capture
    from ditq.models.cost import layer_inputs

    unet = UNet(SD1)
    shapes = layer_inputs(unet, SD1.geometry(8, 77), 64, 64)
    layers = {path: layer for path, layer in capture.layers(unet).items() if path in shapes}
    total = 0
    for path, layer in layers.items():
        if unet.anatomy.site(path).phase == "block":
            stride = layer.get("stride", (1, 1)) if "downsamplers" in path else (1, 1)
            total += 2 * np.prod(shapes[path][:-1]) // np.prod(stride) * layer.weight.size
    total += 2 * 9 * 320 * 8 * 64**2
    for side, hidden, transformers in ((64, 320, 5), (32, 640, 5), (16, 1280, 5), (8, 1280, 1)):
        total += transformers * 4 * side**2 * (side**2 + 77) * hidden
    assert unet.step_flops(1, 64, 64, 77) == pytest.approx(total, rel=1e-9)
    assert unet.step_flops(3, 64, 64, 77) == pytest.approx(3 * total, rel=1e-9)
