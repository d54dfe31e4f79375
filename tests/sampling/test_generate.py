"""Settings are checked before anything is loaded; pictures depend on prompt and seed, not on their batch."""

import mlx.core as mx
import numpy as np
import pytest

from ditq.core.errors import DitqError, UserError
from ditq.models import Conditioning, Defaults, Geometry, Network, RunInputs, load
from ditq.models.mmdit import MMDiT
from ditq.sampling.generate import Settings, denoised, generate, settings_for
from ditq.sampling.steppers import STEPPERS
from ditq.sampling.steppers import noise as gaussian
from tests.models.families import FAMILIES, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded


class Small:
    """A random model whose prompts are embedded by their characters, and whose decoder shows three channels."""

    name = "small"
    config = FAMILIES["sd3-medium"]
    defaults = Defaults(size=64, steps=3, guidance=4.0, shift=3.0, schedule="uniform")
    geometry = Geometry(
        latent_channels=16, factor=8, unit=2, largest=48, text_tokens=7, text_dim=40, pooled_dim=48
    )
    prediction, noise = "velocity", "rectified-flow"
    dtype = mx.float32

    def __init__(self):
        self.loads = []

    def encode(self, prompts):
        self.loads.append(("encode", len(prompts)))
        rows = [np.resize(np.frombuffer((p or " ").encode(), np.uint8) / 99.0, 7 * 40) for p in prompts]
        tokens = mx.array(np.stack(rows).astype(np.float32)).reshape(-1, 7, 40)
        return Conditioning(tokens, mx.repeat(tokens[:, :1, :24], 2, 2)[:, 0])

    def network(self):
        self.loads.append(("network", 1))
        return loaded(self.config, to_mlx(stability_weights(self.config)))

    def skeleton(self):
        return MMDiT(self.config)

    def decode(self, latents):
        pixels = mx.repeat(mx.repeat(latents[..., :3], 8, 1), 8, 2)
        return np.array(mx.clip(pixels * 40 + 128, 0, 255).astype(mx.uint8))


def test_pictures_do_not_depend_on_their_batch():
    prompts, seeds = ["one", "two", "three"], [5, 6, 7]
    runs = []
    for batch in (1, 2, 3):
        model = Small()
        runs.append(list(generate(model, prompts, seeds, settings_for(model), batch)))
    assert all(picture.shape == (64, 64, 3) for picture in runs[0])
    for run in runs[1:]:
        for one, other in zip(runs[0], run, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1
    assert np.abs(runs[0][0].astype(int) - runs[0][1]).max() > 10


def test_all_prompts_are_encoded_at_once_before_the_network_is_loaded():
    model, steps = Small(), []
    pictures = list(
        generate(model, ["a", "b", "c"], [0, 1, 2], settings_for(model), 2, lambda: steps.append(1))
    )
    assert model.loads == [("encode", 4), ("network", 1)]  # three prompts and the negative
    assert len(pictures) == 3 and len(steps) == 2 * 3


def test_overflow_is_an_error_not_a_black_picture():
    model = Small()
    model.decode = lambda latents: pytest.fail("decoded latents that are not finite")
    network = model.network()
    network.final_layer.linear.bias = mx.full((64,), mx.inf)
    model.network = lambda: network
    with pytest.raises(DitqError, match="not finite"):
        list(generate(model, ["a"], [0], settings_for(model)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"height": 100},
            "picture height: got 100; expected a multiple of 16 from 16 to 384 for small; 96 is the nearest",
        ),
        ({"width": 0}, "picture width: got 0"),
        ({"height": 4096}, "384 is the nearest"),
        ({"steps": 0}, "steps: got 0; expected at least 1"),
        ({"guidance": -1.0}, "guidance: got -1.0"),
        ({"guidance": float("nan")}, "guidance: got nan"),
        ({"shift": 0.0}, "sigma shift: got 0.0"),
        ({"schedule": "karras"}, "schedule: got karras; expected uniform or diffusionkit"),
        ({"sampler": "heun"}, "sampler: got heun; expected euler or ddim or dpm++2m"),
    ],
)
def test_impossible_settings_are_explained(given, message):
    with pytest.raises(UserError) as caught:
        settings_for(Small(), **given)
    assert message in str(caught.value)


def test_unknown_models_are_explained():
    with pytest.raises(UserError, match="model: got sd4; expected mini or sd3-medium"):
        load("sd4")
    with pytest.raises(UserError, match="text encoders: got t5"):
        load("sd3-medium", text_encoders="t5")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 0}, "steps: got 0; expected from 1 to 999"),
        ({"steps": 1000}, "steps: got 1000; expected from 1 to 999"),
        ({"shift": 3.0}, "sigma shift: got 3.0; expected 1: the noise levels of ddpm-linear are not shifted"),
        ({"schedule": "uniform"}, "schedule: got uniform; expected linspace or leading or trailing"),
    ],
)
def test_impossible_settings_of_a_ddpm_model_are_explained(given, message):
    with pytest.raises(UserError) as caught:
        settings_for(OfDDPM(), **given)
    assert message in str(caught.value)


class OfDDPM(Small):
    """A model that predicts epsilon: exactly that of data which is one point."""

    defaults = Defaults(size=64, steps=3, guidance=1.0, shift=1.0, schedule="leading", sampler="dpm++2m")
    prediction, noise = "epsilon", "ddpm-linear"
    centre = gaussian([9], 8, 8, 16)

    def network(self):
        return Point(self.centre)


class Point(Network):
    """The ideal epsilon of DDPM's linear process where all data is one point."""

    dtype = mx.float32

    def __init__(self, centre):
        super().__init__()
        self.centre = centre

    def prepare(self, conditioning, timesteps):
        table = np.sqrt(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
        alphas = mx.array(table[np.array(timesteps).astype(int)], dtype=mx.float32)
        return RunInputs({}, {"alpha": mx.repeat(alphas[:, None], len(conditioning), axis=1)})

    def __call__(self, x, alpha):
        alpha = alpha[:, None, None, None]
        return (x - alpha * self.centre) / mx.sqrt(1 - alpha**2)


@pytest.mark.parametrize("sampler", STEPPERS)
def test_a_model_that_predicts_epsilon_is_sampled_to_its_data(sampler):
    model = OfDDPM()
    for latents in denoised(model, ["a", "b"], [1, 2], settings_for(model, steps=5, sampler=sampler)):
        assert mx.abs(latents - model.centre).max().item() < 1e-3


def test_settings_record_what_every_file_always_kept_and_what_is_unusual():
    usual, unusual = settings_for(Small()), settings_for(OfDDPM())
    kept = {"height": 64, "width": 64, "steps": 3, "guidance": 4.0, "shift": 3.0, "schedule": "uniform"}
    assert list(usual.recorded().items()) == [*kept.items(), ("negative", "")]
    assert usual.as_text() == {name: str(value) for name, value in usual.recorded().items()}
    assert unusual.recorded()["sampler"] == "dpm++2m" and unusual.recorded()["noise"] == "ddpm-linear"
    for settings in (usual, unusual):
        assert Settings(**settings.recorded()) == settings
    assert usual.latent_shape(Small.geometry) == (8, 8, 16)
