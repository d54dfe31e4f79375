"""What layers of a PixArt receive is counted as in plain NumPy, point by point, also where they run once a prompt."""

from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from ditq.calibration import PointRecipe, collect_points
from ditq.capture import traced
from ditq.diagnostics import ProfileRecipe, profile
from ditq.models.base import Conditioning, Defaults
from ditq.models.pixart import PixArt
from tests.models.pixart.small import CONFIGS, TEXT_TOKENS, diffusers_model, state_arrays, to_mlx
from tests.models.pixart.test_model import loaded

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CONFIG = CONFIGS["alpha"]


def random_model() -> SimpleNamespace:
    """A random transformer whose prompts have as many tokens as words; it draws nothing."""
    network = loaded(CONFIG, to_mlx(state_arrays(diffusers_model(CONFIG))))

    def encode(prompts):
        rng = np.random.default_rng(0)
        tokens = rng.standard_normal((len(prompts), TEXT_TOKENS, CONFIG.text_embed_dim)).astype(np.float32)
        lengths = np.array([len(prompt.split()) + 1 for prompt in prompts])[:, None]
        mask = (np.arange(TEXT_TOKENS) < lengths).astype(np.float32)
        return Conditioning(mx.array(tokens), mask=mx.array(mask))

    return SimpleNamespace(
        name="pixart", prediction="epsilon", noise="ddpm-linear", dtype=mx.float32, encode=encode,
        geometry=CONFIG.geometry(TEXT_TOKENS), network=lambda: network, skeleton=lambda: PixArt(CONFIG),
        defaults=Defaults(size=64, steps=2, guidance=3.0, shift=1.0, schedule="linspace", sampler="dpm++2m"),
        decode=lambda latents: np.zeros((len(latents), 64, 64, 3), np.uint8),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return random_model()


def test_profile_counts_what_each_layer_receives(model, tmp_path):
    recipe = PointRecipe(2, 4, 2, 3.0, latent_size=8, seed=1, batch_size=2)
    points = collect_points(model, ["one", "one two three"], recipe, tmp_path / "points.npz")
    found = profile(model, points, ProfileRecipe(batch_size=2, inputs="all"), tmp_path / "stats.npz")
    network, kept = model.network(), {}
    for row in range(len(points)):
        conditioning = points.conditioning(int(points.prompt_indices[row]))
        x, t = mx.array(points.xs[row : row + 1]).astype(mx.float32), float(points.ts[row])
        for i in (0, 1):

            def keep(path, received, t=t):
                values = np.array(received).reshape(-1, received.shape[-1])
                kept.setdefault((path, t), []).append(values)

            with traced(network, network.anatomy.paths(), keep):
                inputs = network.prepare(conditioning[i : i + 1], mx.array([t])).at(0)
                mx.eval(network(x, **inputs))
    assert {path for path, _ in kept} == set(found.layers) == set(network.anatomy.paths())
    for (path, t), arrays in kept.items():
        x, part = np.concatenate(arrays), found.layers[path][t]
        assert part.count == len(x), path
        np.testing.assert_allclose(part.mean, x.mean(axis=0, dtype=np.float64), **CLOSE)
        np.testing.assert_allclose(part.maximum, x.max(axis=0), **CLOSE)


def test_padding_reaches_no_layer_as_anything_but_zeros(model):
    """Else it would make up most of what keys and values are calibrated on."""
    network, conditioning = model.network(), model.encode(["one two", "one"])
    seen = {}
    with traced(network, network.anatomy.paths(), lambda path, x: seen.update({path: np.array(x)})):
        inputs = network.prepare(conditioning, mx.array([500.0])).at(0)
        mx.eval(network(mx.zeros((2, 8, 8, 4)), **inputs))
    pads = np.array(conditioning.mask) == 0
    for path in (
        "caption_projection.linear_1",
        "transformer_blocks.0.attn2.to_k",
        "transformer_blocks.2.attn2.to_v",
    ):
        assert not seen[path][pads].any() and np.abs(seen[path][~pads]).min(axis=1).all()


def test_in_16_bits_the_noise_is_nearly_the_same(model):
    """Masks, positions and sizes do not overflow there."""
    network = model.network()
    half = PixArt(CONFIG)
    half.update(tree_map(lambda one: one.astype(mx.float16), network.parameters()))
    conditioning, x = model.encode(["one two", "one"]), mx.random.normal((2, 8, 8, 4), key=mx.random.key(0))
    got, wanted = (
        np.array(one(x, **one.prepare(conditioning, mx.array([500.0])).at(0)).astype(mx.float32))
        for one in (half, network)
    )
    assert (
        half.dtype == mx.float16
        and half(x, **half.prepare(conditioning, mx.array([5.0])).at(0)).dtype == mx.float16
    )
    assert np.linalg.norm(got - wanted) < 0.02 * np.linalg.norm(wanted)
