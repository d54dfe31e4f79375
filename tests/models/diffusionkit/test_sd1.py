"""Stable Diffusion 1 from both layouts, part by part against diffusers and transformers, and as a whole."""

import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from mlx.utils import tree_flatten

import ditq.models.diffusionkit.sd1 as sd1
from ditq.core.errors import UserError
from ditq.models import check_same_shape, load
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.sd1_files import SD1Files
from ditq.models.diffusionkit.vae import VAE
from ditq.sampling.generate import generate, settings_for
from ditq.sampling.steppers import noise
from tests.models.diffusionkit.small import save
from tests.models.diffusionkit.small_sd1 import CONFIG, OLD_NAMES, VAE_SHAPE, write_sd1

PROMPTS = ["a photo of a castle", "the red fox"]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_sd1(tmp_path_factory.mktemp("sd1"))


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    monkeypatch.setitem(sd1.CONFIGS, "sd1.5", CONFIG)
    monkeypatch.setattr(sd1, "SD_VAE", VAE_SHAPE)


@pytest.fixture(params=["diffusers", "single"])
def model(request, small, tmp_path):
    """The small model under the name sd1.5; its single file has a tokenizer beside it."""
    if request.param == "diffusers":
        return load("sd1.5", small.folder)
    shutil.copy(small.file, tmp_path)
    shutil.copytree(small.folder / "tokenizer", tmp_path / "tokenizer")
    return load("sd1.5", tmp_path / small.file.name)


def test_the_unet_is_that_of_diffusers(small, model):
    latents = np.random.default_rng(0).standard_normal((2, 8, 6, 4)).astype(np.float32)
    conditioning = model.encode(PROMPTS)
    with torch.no_grad():
        given = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy())
        wanted = small.unet(given, 321, torch.from_numpy(np.array(conditioning.tokens)), return_dict=False)[0]
    inputs = model.network().prepare(conditioning, mx.array([321.0])).at(0)
    got = np.array(model.network()(mx.array(latents), **inputs))
    assert np.abs(got - wanted.numpy().transpose(0, 2, 3, 1)).max() <= 1e-4


def test_the_text_is_the_last_state_of_clip(small, model):
    conditioning = model.encode(PROMPTS)
    assert conditioning.pooled is None and conditioning.mask is None
    with torch.no_grad():
        ids = torch.from_numpy(text.clip_ids(model.files, "l", PROMPTS))
        wanted = small.clip(ids).last_hidden_state.numpy()
    assert conditioning.tokens.shape == (2, model.geometry.text_tokens, model.geometry.text_dim)
    assert np.abs(np.array(conditioning.tokens) - wanted).max() <= 1e-4


def test_pictures_of_latents_are_those_of_diffusers(small, model):
    latents = np.random.default_rng(0).standard_normal((2, 6, 10, 4)).astype(np.float32)
    with torch.no_grad():
        moved = torch.from_numpy(latents.transpose(0, 3, 1, 2).copy()) / 0.18215
        pixels = small.vae.decode(moved).sample.numpy().transpose(0, 2, 3, 1)
    wanted = (np.clip(pixels / 2 + 0.5, 0, 1) * 255).round()
    got = model.decode(mx.array(latents))
    assert got.shape == (2, 48, 80, 3) and (got != wanted).mean() < 1e-3
    assert np.abs(got.astype(int) - wanted).max() <= 1 and 0 < wanted.mean() < 255


def test_latents_of_pictures_are_those_of_diffusers(small, model):
    pictures = np.random.default_rng(2).integers(0, 256, (2, 32, 48, 3)).astype(np.uint8)
    scaled = torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    with torch.no_grad():
        wanted = small.vae.encode(scaled).latent_dist.mode() * 0.18215
    assert np.abs(np.array(model.vae.encode(pictures)) - wanted.numpy().transpose(0, 2, 3, 1)).max() <= 1e-4


def test_pictures_come_out(model):
    settings = settings_for(model, height=64, width=96, steps=3)
    pictures = list(generate(model, PROMPTS, [1, 2], settings, batch_size=2))
    assert [picture.shape for picture in pictures] == [(64, 96, 3)] * 2
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 5


@pytest.mark.parametrize(("sampler", "scheduler"), [("ddim", DDIMScheduler), ("pndm", PNDMScheduler)])
def test_a_picture_is_that_of_diffusers_pipeline(small, model, sampler, scheduler):
    """Prompt to pixels from the same noise, with guidance, in the model's own schedule."""
    settings = settings_for(model, height=64, width=96, steps=6, sampler=sampler)
    got = next(iter(generate(model, PROMPTS[:1], [7], settings)))
    own = {"skip_prk_steps": True} if sampler == "pndm" else {"clip_sample": False}
    table = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    pipeline = StableDiffusionPipeline(
        vae=small.vae, text_encoder=small.clip, tokenizer=None, unet=small.unet, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
        scheduler=scheduler(**table, **own, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    states = np.array(model.encode([PROMPTS[0], ""]).tokens)
    start = np.array(noise([7], 64 // 8, 96 // 8, 4)).transpose(0, 3, 1, 2).copy()
    wanted = pipeline(
        prompt_embeds=torch.from_numpy(states[:1]), negative_prompt_embeds=torch.from_numpy(states[1:]),
        latents=torch.from_numpy(start), num_inference_steps=6, guidance_scale=7.5, height=64, width=96,
        output_type="np",
    ).images[0]  # fmt: skip
    wanted = (wanted * 255).round().astype(int)
    assert got.shape == wanted.shape and wanted.std() > 5
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_a_vae_under_older_names_is_the_same(small, tmp_path):
    weights = {}
    for key, value in small.vae.state_dict().items():
        for new, old in OLD_NAMES.items():
            key = key.replace(f".{new}.", f".{old}.")
        weights[key] = value.numpy()
    assert any(".proj_attn." in key for key in weights)
    save(tmp_path / "vae" / "diffusion_pytorch_model.safetensors", weights)
    got, wanted = (
        dict(tree_flatten(VAE(path, VAE_SHAPE).decoder().parameters()))
        for path in (tmp_path / "vae", small.folder / "vae")
    )
    assert got.keys() == wanted.keys() and all(mx.array_equal(got[key], wanted[key]) for key in wanted)


def test_the_network_is_loaded_once_and_for_this_device(model):
    assert model.network() is model.network()
    dtypes = {array.dtype for _, array in tree_flatten(model.network().parameters())}
    assert dtypes == ({mx.float32} if mx.default_device() == mx.cpu else {mx.float16})


def test_defaults_are_those_of_the_model_card():
    settings = settings_for(load("sd1.4"))
    assert (settings.height, settings.steps, settings.guidance) == (512, 50, 7.5)
    assert (settings.schedule, settings.sampler) == ("stable-diffusion", "ddim")
    assert settings.noise == "ddpm-scaled-linear" and load("sd1.4").skeleton().config.text_embed_dim == 768
    for side in (64, 448, 768):
        assert settings_for(load("sd1.4"), height=side).height == side
    with pytest.raises(UserError, match="picture height: got 100; expected a multiple of 64"):
        settings_for(load("sd1.4"), height=100)


def test_a_single_file_without_a_tokenizer_asks_the_hub_for_it(small):
    asked = []

    def download(repo, file, name):
        asked.append((repo, file))
        return small.folder / file

    files = SD1Files("sd1.5", small.file, download)
    assert text.clip_ids(files, "l", PROMPTS).shape == (2, 77)
    assert asked == [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", f"tokenizer/{name}")
        for name in ("vocab.json", "merges.txt")
    ]
    assert files.vae() == files.transformer() == files.text("clip_l") == small.file


def test_without_a_path_every_part_is_the_hubs():
    files = SD1Files("sd1.4", None, lambda repo, file, name: Path(repo) / file)
    names = [str(files.transformer()), str(files.vae()), str(files.text("clip_l"))]
    assert names == [
        "CompVis/stable-diffusion-v1-4/unet/diffusion_pytorch_model.fp16.safetensors",
        "CompVis/stable-diffusion-v1-4/vae/diffusion_pytorch_model.fp16.safetensors",
        "CompVis/stable-diffusion-v1-4/text_encoder/model.fp16.safetensors",
    ]


# What is refused


def folder_with(small, tmp_path, **files):
    """A copy of the small folder with some JSON files changed."""
    folder = tmp_path / "other"
    shutil.copytree(small.folder, folder)
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_json", ".json")
        path.write_text(json.dumps(content))
    return folder


def test_velocity_prediction_is_refused(small, tmp_path):
    folder = folder_with(
        small, tmp_path, scheduler__scheduler_config_json={"prediction_type": "v_prediction"}
    )
    for use in (lambda model: model.encode(PROMPTS), lambda model: model.network()):
        with pytest.raises(UserError, match="scheduler: got prediction_type v_prediction; expected epsilon"):
            use(load("sd1.5", folder))


def test_another_familys_folder_is_told_of(small, tmp_path):
    folder = folder_with(small, tmp_path, model_index_json={"_class_name": "StableDiffusion3Pipeline"})
    shutil.move(folder / "unet", folder / "transformer")
    with pytest.raises(
        UserError, match="model_index.json: got a folder of StableDiffusion3Pipeline; expected Stable"
    ):
        load("sd1.5", folder).network()


def test_an_empty_folder_is_told_what_it_should_hold(tmp_path):
    with pytest.raises(
        UserError, match="got none of unet/.*give a diffusers folder .*v1-5-pruned-emaonly.safetensors"
    ):
        load("sd1.5", tmp_path).network()


def test_a_missing_text_encoder_is_told_before_anything_is_encoded(small, tmp_path):
    folder = folder_with(small, tmp_path)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(
        UserError, match="got none of text_encoder/model.fp16.safetensors, text_encoder; expected"
    ):
        load("sd1.5", folder).encode(PROMPTS)


def test_another_vae_is_refused(small, tmp_path):
    config = json.loads((small.folder / "vae" / "config.json").read_text())
    folder = folder_with(small, tmp_path, vae__config_json={**config, "scaling_factor": 0.13025})
    with pytest.raises(
        UserError,
        match="got scaling_factor 0.13025, as the VAE of Stable Diffusion XL .*; expected .* 0.18215",
    ):
        load("sd1.5", folder).decode(mx.zeros((1, 4, 4, 4)))


def test_a_checkpoint_of_another_shape_is_not_this_model():
    check_same_shape("sd1.4", {})
    with pytest.raises(
        UserError, match="model_config: got text_embed_dim 1024; expected text_embed_dim 768, as sd1.4 has"
    ):
        check_same_shape("sd1.4", {"text_embed_dim": 1024}, "config.json")
