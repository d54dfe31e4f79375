"""The MMDiT against `diffusers`, through each checkpoint layout."""

import mlx.core as mx
import numpy as np
import pytest
import torch
from mlx.utils import tree_flatten

from ditq.models.base import Conditioning
from ditq.models.functional import gelu_tanh, timestep_embedding
from ditq.models.loading import load_weights_into
from ditq.models.mmdit import MMDiT
from ditq.models.mmdit.config import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM
from ditq.models.mmdit.keymap import to_mmdit
from tests.models.families import FAMILIES, diffusers_model, inputs, stability_weights, state_arrays, to_mlx

CASES = [(1, 16, 16, 1000.0), (3, 12, 20, 602.15), (2, 8, 48, 9.0)]
"""Batch, height, width, timestep: square, wide and the full width of the position table."""


def loaded(config, weights) -> MMDiT:
    mapped = to_mmdit(weights)
    assert mapped is not None
    mmdit = MMDiT(config)
    load_weights_into(mmdit, mapped, "test")
    return mmdit


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    config = FAMILIES[request.param]
    stability = stability_weights(config)
    return config, stability, diffusers_model(config, stability)


@pytest.mark.parametrize("layout", ["stability", "stability-prefixed", "diffusers", "diffusionkit"])
def test_velocity_equals_diffusers(family, layout):
    config, stability, reference = family
    if layout == "diffusers":
        weights = state_arrays(reference)
    elif layout == "stability-prefixed":
        weights = {f"model.diffusion_model.{key}": value for key, value in to_mlx(stability).items()}
        weights["first_stage_model.decoder.conv_in.weight"] = mx.zeros((1,))
    else:
        weights = to_mlx(stability)
    mmdit = loaded(config, weights)
    if layout == "diffusionkit":
        mmdit = loaded(config, dict(tree_flatten(mmdit.parameters())))
    for batch, height, width, timestep in CASES:
        x, text, pooled = inputs(config, batch, height, width)
        with torch.no_grad():
            args = [torch.from_numpy(a) for a in (x.transpose(0, 3, 1, 2).copy(), text, pooled)]
            wanted = reference(*args, torch.full((batch,), timestep), return_dict=False)[0].numpy()
        prepared = mmdit.prepare(Conditioning(mx.array(text), mx.array(pooled)), mx.array([timestep]))
        got = np.array(mmdit(mx.array(x), **prepared.at(0)))
        assert np.abs(got - wanted.transpose(0, 2, 3, 1)).max() <= 1e-4


def test_modulation_of_a_run_is_that_of_its_steps():
    config = FAMILIES["sd3.5-medium"]
    mmdit = loaded(config, to_mlx(stability_weights(config)))
    pooled = mx.array(inputs(config, 2, 8, 8)[2])
    conditioning = Conditioning(mx.zeros((2, 5, 40)), pooled)
    run = mmdit.prepare(conditioning, mx.array([1000.0, 602.15, 9.0])).by_step["modulation"]
    hidden = config.hidden_size
    assert run.shape == (3, 2, (2 * (9 + 6) + (6 + 2) + 2) * hidden)
    for i, timestep in enumerate((1000.0, 602.15, 9.0)):
        alone = mmdit.prepare(conditioning, mx.array([timestep])).at(0)["modulation"]
        assert np.allclose(run[i], alone, atol=1e-5)
        rows = mmdit.given(mx.array([timestep] * 2), pooled=pooled)
        assert np.allclose(run[i], mx.concatenate(list(rows.values()), axis=-1), atol=1e-5)


def test_timestep_embedding_is_float32_in_a_16_bit_model():
    angles = 602.15 * 10000.0 ** (-np.arange(128) / 128)
    wanted = np.concatenate([np.cos(angles), np.sin(angles)])
    got = timestep_embedding(mx.array([602.15]), 256, 10000)
    assert got.dtype == mx.float32
    assert np.abs(np.array(got)[0] - wanted).max() < 1e-4
    mmdit = MMDiT(FAMILIES["sd3-medium"])
    conditioning = Conditioning(mx.zeros((1, 5, 40)), mx.ones((1, 48)))
    exact = mmdit.prepare(conditioning, mx.array([602.15])).by_step["modulation"]
    mmdit.set_dtype(mx.bfloat16)
    half = mmdit.prepare(conditioning, mx.array([602.15])).by_step["modulation"]
    assert half.dtype == mx.bfloat16
    difference = mx.abs(half.astype(mx.float32) - exact).max() / mx.abs(exact).max()
    assert difference.item() < 0.03  # a bfloat16 angle would be off by up to 2 radians


@pytest.mark.parametrize(("config", "linears"), [(SD3_MEDIUM, 340), (SD35_MEDIUM, 392), (SD35_LARGE, 536)])
def test_full_size_architectures_equal_the_published_ones(config, linears):
    flat = dict(tree_flatten(MMDiT(config).parameters()))  # lazy: nothing is allocated
    with torch.device("meta"):
        reference = diffusers_model(config).state_dict()
    assert sum(array.size for array in flat.values()) == sum(tensor.numel() for tensor in reference.values())
    matrices = [key for key, array in flat.items() if key.endswith(".weight") and array.ndim == 2]
    assert len(set(matrices) - {"x_pos_embedder.pos_embed.weight"}) == linears


def test_gelu_is_the_tanh_form():
    x = np.linspace(-30, 30, 20001)
    wanted = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    assert np.abs(np.array(gelu_tanh(mx.array(x.astype(np.float32)))) - wanted).max() < 2e-6


def test_latents_beyond_the_position_table_are_refused():
    mmdit = MMDiT(FAMILIES["sd3-medium"])
    with pytest.raises(ValueError, match="25x4 patches exceed the position table of 24x24"):
        mmdit.x_pos_embedder(50, 8)
