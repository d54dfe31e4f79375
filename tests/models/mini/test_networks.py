"""The networks around `mini`'s transformer against the PyTorch modules that were trained."""

import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch

from ditq.models.loading import load_weights_into
from ditq.models.mini.networks import Decoder, TextEncoder, pixel_shuffle

SCRIPTS = str(Path(__file__).parents[3] / "scripts")


@pytest.fixture(scope="module")
def nets():
    sys.path.insert(0, SCRIPTS)
    try:
        from mini import nets
    finally:
        sys.path.remove(SCRIPTS)
    return nets


def as_mlx(module: torch.nn.Module) -> dict[str, mx.array]:
    arrays = {name: mx.array(value.detach().numpy()) for name, value in module.state_dict().items()}
    return {name: array.transpose(0, 2, 3, 1) if array.ndim == 4 else array for name, array in arrays.items()}


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return module.eval()


def test_text_encoder_equals_the_trained_one(nets):
    reference = randomised(nets.TextEncoder(20, 8))
    encoder = TextEncoder(20, 8, 128)
    load_weights_into(encoder, as_mlx(reference), "test")
    ids = np.random.default_rng(0).integers(0, 20, (5, 8))
    ids[0] = 0
    with torch.no_grad():
        wanted = reference(torch.from_numpy(ids))
    for got, want in zip(encoder(mx.array(ids)), wanted, strict=True):
        assert np.abs(np.array(got) - want.numpy()).max() < 1e-5


def test_decoder_equals_the_trained_one(nets):
    reference = randomised(nets.Decoder())
    decoder = Decoder()
    load_weights_into(decoder, as_mlx(reference), "test")
    latents = np.random.default_rng(0).standard_normal((2, 16, 12, 16)).astype(np.float32)
    with torch.no_grad():
        wanted = (
            reference(torch.from_numpy(latents.transpose(0, 3, 1, 2).copy())).numpy().transpose(0, 2, 3, 1)
        )
    got = np.array(decoder(mx.array(latents)))
    assert got.shape == (2, 128, 96, 3)
    assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_pixel_shuffle_has_pytorchs_order():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 8)).astype(np.float32)
    wanted = torch.pixel_shuffle(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), 2).numpy()
    assert np.array_equal(np.array(pixel_shuffle(mx.array(x))), wanted.transpose(0, 2, 3, 1))
