"""PixArt from a diffusers folder, part by part against diffusers and transformers, and as a whole."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PixArtAlphaPipeline
from mlx.utils import tree_flatten
from transformers import T5Tokenizer

import ditq.models.diffusionkit.pixart as pixart
from ditq.core.errors import UserError
from ditq.models import MODELS, check_same_shape, load
from ditq.models.diffusionkit import text
from ditq.models.diffusionkit.pixart_files import PixArtFiles
from ditq.sampling.generate import generate, settings_for
from ditq.sampling.steppers import noise
from tests.models.diffusionkit.small_pixart import CONFIG, SHAPE, moved, write_pixart

PROMPTS = [" A photo of a Castle", "the red fox"]
NAMES = ("pixart-alpha", "pixart-alpha-512", "pixart-sigma")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_pixart(tmp_path_factory.mktemp("pixart"))


@pytest.fixture(autouse=True)
def shapes(monkeypatch):
    monkeypatch.setitem(pixart.CONFIGS, "pixart-alpha", CONFIG)
    monkeypatch.setitem(pixart.VAES, "pixart-alpha", replace(SHAPE, model="PixArt-alpha"))


@pytest.fixture
def model(small):
    return load("pixart-alpha", small.folder)


def pipeline_of(small, scheduler) -> PixArtAlphaPipeline:
    tokenizer = T5Tokenizer.from_pretrained(
        str(small.folder / "tokenizer"), extra_ids=0, model_max_length=120
    )
    pipeline = PixArtAlphaPipeline(
        tokenizer=tokenizer, text_encoder=small.t5, vae=small.vae, transformer=small.transformer,
        scheduler=scheduler,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_conditioning_is_that_of_diffusers(small, model):
    with torch.no_grad():
        tokens, mask, _, _ = pipeline_of(small, DDIMScheduler()).encode_prompt(
            [*PROMPTS, ""], do_classifier_free_guidance=False
        )
    got = model.encode([*PROMPTS, ""])
    assert got.pooled is None and got.tokens.shape == (3, 120, model.geometry.text_dim)
    assert np.array_equal(np.array(got.mask), mask.numpy())
    assert np.abs(np.array(got.tokens) - tokens.numpy()).max() <= 1e-4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers with NumPy 2
@pytest.mark.parametrize(("sampler", "size"), [("dpm++2m", (64, 96)), ("ddim", (96, 64))])
def test_a_picture_is_that_of_diffusers_pipeline(small, model, sampler, size):
    """Prompt to pixels from the same noise, with guidance, in the model's own schedule."""
    steps, (height, width) = 6, size
    schedule = None if sampler == "dpm++2m" else "leading"
    settings = settings_for(
        model, height=height, width=width, steps=steps, sampler=sampler, schedule=schedule, negative="snow"
    )
    got = next(iter(generate(model, PROMPTS[:1], [7], settings)))
    table = dict(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    scheduler = (
        DPMSolverMultistepScheduler(**table, solver_order=2, algorithm_type="dpmsolver++")
        if sampler == "dpm++2m"
        else DDIMScheduler(**table, clip_sample=False, steps_offset=1, timestep_spacing="leading")
    )
    with torch.no_grad():
        wanted = pipeline_of(small, scheduler)(
            PROMPTS[0], negative_prompt="snow", num_inference_steps=steps, guidance_scale=4.5, height=height,
            width=width, latents=torch.from_numpy(moved(np.array(noise([7], height // 8, width // 8, 4)))),
            clean_caption=False, use_resolution_binning=False, output_type="np",
        ).images[0]  # fmt: skip
    wanted = (wanted * 255).round().astype(int)
    assert got.shape == wanted.shape and wanted.std() > 5
    assert np.abs(got.astype(int) - wanted).max() <= 1


def test_pictures_of_different_prompts_differ(model):
    settings = settings_for(model, height=64, width=64, steps=3)
    one, other = generate(model, PROMPTS, [1, 1], settings, batch_size=2)
    assert np.abs(one.astype(int) - other).max() > 5


def test_the_network_is_loaded_once_and_for_this_device(model):
    assert model.network() is model.network()
    dtypes = {array.dtype for _, array in tree_flatten(model.network().parameters())}
    assert dtypes == ({mx.float32} if mx.default_device() == mx.cpu else {mx.float16})


def test_defaults_are_those_of_the_model_cards():
    for name in NAMES:
        assert name in MODELS
        settings = settings_for(load(name))
        assert (settings.height, settings.steps, settings.guidance) == (
            512 if "512" in name else 1024,
            20,
            4.5,
        )
        assert (settings.schedule, settings.sampler, settings.noise) == ("linspace", "dpm++2m", "ddpm-linear")
        assert load(name).geometry.text_tokens == (300 if name == "pixart-sigma" else 120)
        assert load(name).geometry.masked
    assert settings_for(load("pixart-alpha"), height=2048, width=528).width == 528
    with pytest.raises(UserError, match="picture height: got 100; expected a multiple of 16"):
        settings_for(load("pixart-alpha"), height=100)


def test_without_a_path_every_part_is_the_hubs():
    asked = []

    def download(repo, file, name):
        asked.append(f"{repo}/{file}")
        return Path(file)

    files = PixArtFiles("pixart-sigma", None, download)
    _ = files.transformer(), files.vae(), files.text("t5"), files.text("t5_config"), files.text("spiece")
    repo = "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS"
    assert asked == [
        f"{repo}/transformer/diffusion_pytorch_model.safetensors",
        f"{repo}/vae/diffusion_pytorch_model.safetensors",
        "argmaxinc/stable-diffusion/t5/t5xxl.safetensors",
        "google/t5-v1_1-xxl/config.json",
        "google/t5-v1_1-xxl/spiece.model",
    ]


def test_t5_in_one_file_beside_the_other_parts_is_the_same(small, model, tmp_path):
    folder = folder_with(small, tmp_path)
    small.t5.save_pretrained(tmp_path / "t5")
    shutil.move(tmp_path / "t5" / "model.safetensors", folder / "t5xxl_fp16.safetensors")
    shutil.move(folder / "text_encoder" / "config.json", folder / "config.json")
    shutil.rmtree(folder / "text_encoder")
    (folder / "t5").mkdir()
    shutil.move(folder / "config.json", folder / "t5" / "config.json")
    got = load("pixart-alpha", folder).encode(PROMPTS)
    assert mx.array_equal(got.tokens, model.encode(PROMPTS).tokens)


# What is refused


def folder_with(small, tmp_path, **files):
    """A copy of the small folder with some JSON files changed."""
    folder = tmp_path / "other"
    shutil.copytree(small.folder, folder)
    for name, content in files.items():
        (folder / name.replace("__", "/").replace("_json", ".json")).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (
            {"model_index_json": {"_class_name": "PixArtSigmaPipeline"}},
            "model_index.json: got a folder of PixArtSigmaPipeline; expected PixArtAlphaPipeline, as pixart-alpha",
        ),
        (
            {"model_index_json": {"_class_name": "StableDiffusion3Pipeline"}},
            "model_index.json: got a folder of StableDiffusion3Pipeline",
        ),
        (
            {"scheduler__scheduler_config_json": {"prediction_type": "v_prediction"}},
            "scheduler: got prediction_type v_prediction; expected epsilon",
        ),
        (
            {"scheduler__scheduler_config_json": {"_class_name": "LCMScheduler"}},
            "scheduler: got a latent consistency model",
        ),
    ],
)
def test_folders_of_other_models_are_told_of(small, tmp_path, files, told):
    folder = folder_with(small, tmp_path, **files)
    for use in (lambda model: model.encode(PROMPTS), lambda model: model.network()):
        with pytest.raises(UserError, match=told):
            use(load("pixart-alpha", folder))


def test_sigmas_vae_is_refused_before_the_text_is_read(small, tmp_path):
    config = json.loads((small.folder / "vae" / "config.json").read_text())
    folder = folder_with(small, tmp_path, vae__config_json={**config, "scaling_factor": 0.13025})
    shutil.rmtree(folder / "text_encoder")
    told = "got scaling_factor 0.13025, as the VAE of Stable Diffusion XL and PixArt-Sigma has; expected .* 0.18215"
    for use in (lambda model: model.encode(PROMPTS), lambda model: model.decode(mx.zeros((1, 4, 4, 4)))):
        with pytest.raises(UserError, match=told):
            use(load("pixart-alpha", folder))


def test_a_missing_part_is_told_with_what_a_folder_should_hold(small, tmp_path):
    with pytest.raises(UserError, match="got none of transformer, .*give a diffusers folder .*1024-MS"):
        load("pixart-alpha", tmp_path).network()
    folder = folder_with(small, tmp_path)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(
        UserError, match="got none of text_encoder, t5/t5xxl.safetensors.*expected the files of"
    ):
        load("pixart-alpha", folder).encode(PROMPTS)


def test_another_t5_is_told_by_its_width(small, monkeypatch):
    monkeypatch.setitem(pixart.CONFIGS, "pixart-alpha", replace(CONFIG, text_embed_dim=128))
    monkeypatch.setattr(pixart, "check_pixart_file", lambda *_: None)
    with pytest.raises(UserError, match="text_encoder: got states of width 96; expected T5 v1.1 XXL, of 128"):
        load("pixart-alpha", small.folder).encode(PROMPTS)


def test_a_long_prompt_is_cut_at_the_models_length(small, model):
    with pytest.warns(match="T5 reads 119 of the"):
        ids = text.t5_ids(model.files, ["the red fox " * 60], 120)
    assert ids.shape == (1, 120) and (ids != text.T5_PAD).all()


def test_a_checkpoint_of_another_shape_is_not_this_model():
    check_same_shape("pixart-sigma", {"size_conditioned": False})
    with pytest.raises(
        UserError, match="got size_conditioned true; expected size_conditioned false, as pixart-s"
    ):
        check_same_shape("pixart-sigma", {}, "config.json")
