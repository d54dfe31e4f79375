"""The SD3 models behind the common interface, from local folders."""

import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

import ditq.models.diffusionkit.sd3 as sd3
from ditq.core.errors import UserError
from ditq.models import load
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.vae import VAE
from ditq.sampling.generate import generate, settings_for
from tests.models.diffusionkit.small import SHAPE, mmdit_config
from tests.models.families import diffusers_model, stability_weights
from tests.models.stored import write_stored


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


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<!DOCTYPE html><html></html>", "got an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "got a Git LFS pointer"),
        ({"lora_unet_x.lora_up.weight": np.zeros(1, np.float32)}, "got a LoRA: changes to a model"),
        ({"double_blocks.0.img_mlp.0.weight": np.zeros(1, np.float32)}, "got FLUX or a model of its kind"),
    ],
)
def test_a_file_of_something_else_is_told_before_anything_else_is_looked_for(tmp_path, content, told):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(content) if isinstance(content, bytes) else write_stored(path, content)
    with pytest.raises(UserError) as caught:
        load("sd3-medium", path).encode(["a fox"])
    assert str(caught.value).startswith(f"{path}: {told}")


@pytest.mark.parametrize("part", ["t5/config.json", "t5/t5xxl.safetensors", "clip_g/model.fp16.safetensors"])
def test_what_is_missing_is_told_before_anything_is_encoded(small, tmp_path, monkeypatch, part):
    monkeypatch.setattr(text, "ENCODERS", {})
    shutil.copytree(small.folder, tmp_path / "model")
    (tmp_path / "model" / part).unlink()
    with pytest.raises(
        UserError, match=f"model: got none of .*{part}.*; give a folder that holds sd3_medium"
    ):
        load("sd3-medium", tmp_path / "model").encode(["a fox"])


def test_the_transformers_file_may_be_given_with_the_rest_beside_it(small, model):
    other = load("sd3-medium", small.folder / "sd3_medium.safetensors")
    assert other.files.vae() == small.folder / "sd3_medium.safetensors"  # type: ignore[attr-defined]
    assert mx.array_equal(other.encode(["the red fox"]).tokens, model.encode(["the red fox"]).tokens)


@pytest.mark.parametrize("name", sd3.CONFIGS)
def test_defaults_can_be_sampled(name):
    model = load(name)
    settings = settings_for(model)
    assert (settings.height, settings.shift) == (1024, 3.0) and 28 <= settings.steps <= 50
    assert settings_for(model, height=512, width=512).width == 512
    assert settings.sigmas[0] == 1 and settings.sigmas[-1] == 0
