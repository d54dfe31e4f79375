"""The SD3 models behind the common interface, from local folders."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ditq.models.diffusionkit.sd3 as sd3
from ditq.core.errors import UserError
from ditq.models import load
from ditq.models.diffusionkit.vae import VAE
from ditq.sampling.generate import generate, settings_for
from tests.models.diffusionkit.small import SHAPE, mmdit_config
from tests.models.families import diffusers_model, stability_weights


@pytest.fixture
def model(small, monkeypatch):
    """The small model under the name sd3-medium."""
    monkeypatch.setitem(sd3.CONFIGS, "sd3-medium", mmdit_config())
    model = load("sd3-medium", small.folder)
    model.vae = VAE(model.files.vae(), SHAPE)  # type: ignore[attr-defined]
    return model


def test_pictures_come_out(model):
    settings = settings_for(model, height=64, width=96, steps=2)
    pictures = list(generate(model, ["the red fox", "a castle"], [1, 2], settings, batch_size=2))
    assert [picture.shape for picture in pictures] == [(64, 96, 3)] * 2
    assert pictures[0].dtype == np.uint8 and np.abs(pictures[0].astype(int) - pictures[1]).max() > 5


def test_the_transformer_is_loaded_once(model):
    assert model.network() is model.network()
    dtypes = {array.dtype for _, array in tree_flatten(model.network().parameters())}
    assert dtypes == ({mx.float32} if mx.default_device() == mx.cpu else {mx.float16})


def test_conditioning_has_the_promised_tokens(model):
    conditioning = model.encode(["the red fox"])
    assert conditioning.tokens.shape == (1, model.geometry.text_tokens, model.geometry.text_dim)
    assert conditioning.pooled.shape == (1, model.geometry.pooled_dim)


def test_a_diffusers_folder_gives_the_same_transformer(model, tmp_path):
    config = mmdit_config()
    diffusers_model(config, stability_weights(config)).save_pretrained(tmp_path / "transformer")
    other = load("sd3-medium", tmp_path).network()
    wanted = dict(tree_flatten(model.network().parameters()))
    got = dict(tree_flatten(other.parameters()))
    assert got.keys() == wanted.keys() and all(
        mx.allclose(got[key], wanted[key], atol=1e-6) for key in wanted
    )


def test_another_models_file_is_refused(small):
    with pytest.raises(UserError, match="sd3_medium.safetensors: got .* missing"):
        load("sd3-medium", small.folder).network()


@pytest.mark.parametrize("name", sd3.CONFIGS)
def test_defaults_can_be_sampled(name):
    model = load(name)
    settings = settings_for(model)
    assert (settings.height, settings.shift) == (1024, 3.0) and 28 <= settings.steps <= 50
    assert settings_for(model, height=512, width=512).width == 512
    assert settings.sigmas[0] == 1 and settings.sigmas[-1] == 0
