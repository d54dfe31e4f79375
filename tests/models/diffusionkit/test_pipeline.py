"""DiffusionKit's own pipeline through the bridge, against our models, diffusers' formulas and the stock modules."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image

from ditq.core.errors import UserError
from ditq.models.base import Conditioning
from ditq.models.diffusionkit import hub, patched_pipeline
from ditq.models.diffusionkit.corrections import DK, CorrectedMMDiT
from ditq.models.diffusionkit.pipeline import CorrectedPipeline
from ditq.models.diffusionkit.vae import SCALE, SHIFT, VAE
from ditq.models.mmdit.keymap import to_mmdit
from ditq.models.mmdit.loading import load_mmdit, load_weights_into
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import diffusionkit_sigmas
from ditq.sampling.steppers import sample
from tests.models.diffusionkit.small import SHAPE, SmallModel, mmdit_config
from tests.models.families import FAMILIES, inputs, stability_weights, to_mlx

FIELDS = (
    "num_heads", "depth_multimodal", "mlp_ratio", "vae_latent_dim", "layer_norm_eps", "use_qk_norm",
    "hidden_size_override", "max_latent_resolution", "patch_size", "pooled_text_embed_dim",
    "token_level_text_embed_dim", "frequency_embed_dim", "max_period",
)  # fmt: skip


def kit_config(config, dtype=mx.float32, **more):
    """DiffusionKit's config of the same shape."""
    shared = {name: getattr(config, name) for name in FIELDS}
    return DK.config.MMDiTConfig(**shared, dtype=dtype, float16_dtype=dtype, **more)


def run(mmdit, x, text, pooled, timesteps, at) -> np.ndarray:
    """One velocity of DiffusionKit's module."""
    mmdit.cache_modulation_params(mx.array(pooled), mx.array(timesteps))
    timestep = mx.broadcast_to(mx.array(timesteps[at]), [len(x)])
    return np.array(mmdit(mx.array(x), mx.array(text)[:, :, None], timestep).astype(mx.float32))


@pytest.mark.parametrize("family", ["sd3-medium", "sd3.5-large"])
def test_corrected_mmdit_equals_ours(family):
    config = FAMILIES[family]
    weights = to_mmdit(to_mlx(stability_weights(config)))
    assert weights is not None
    from ditq.models.mmdit import MMDiT

    ours, kit = MMDiT(config), CorrectedMMDiT(kit_config(config))
    load_weights_into(ours, weights, "ours")
    load_weights_into(kit, weights, "DiffusionKit")
    assert sorted(k for k, _ in tree_flatten(ours.parameters())) == sorted(
        k for k, _ in tree_flatten(kit.parameters())
    )
    timesteps = [1000.0, 602.15, 9.0]
    for batch, height, width in ((2, 8, 12), (1, 16, 16)):
        x, text, pooled = inputs(config, batch, height, width)
        for step in range(3):
            conditioning = Conditioning(mx.array(text), mx.array(pooled))
            wanted = ours(mx.array(x), **ours.prepare(conditioning, mx.array(timesteps)).at(step))
            assert np.abs(run(kit, x, text, pooled, timesteps, step) - np.array(wanted)).max() <= 1e-5


def test_stock_mmdit_without_key_bias_equals_ours_up_to_gelu():
    """The named corrections explain the whole difference: exact GELU in ours gives the stock module's velocity."""
    import mlx.nn as nn

    config = FAMILIES["sd3-medium"]
    weights = to_mmdit(to_mlx(stability_weights(config)))
    assert weights is not None
    stock, kit = DK.mmdit.MMDiT(kit_config(config, low_memory_mode=False)), CorrectedMMDiT(kit_config(config))
    load_weights_into(stock, {k: v for k, v in weights.items() if "k_proj.bias" not in k}, "stock")
    load_weights_into(
        kit, {k: mx.zeros_like(v) if "k_proj.bias" in k else v for k, v in weights.items()}, "kit"
    )
    for _, module in kit.named_modules():
        if isinstance(module, DK.mmdit.FFN):
            module.act_fn = nn.GELU()
    x, text, pooled = inputs(config, 2, 8, 8)
    difference = run(stock, x, text, pooled, [602.15], 0) - run(kit, x, text, pooled, [602.15], 0)
    assert np.abs(difference).max() <= 1e-5


def test_modulation_cache_keeps_the_weights_and_belongs_to_one_prompt():
    config = FAMILIES["sd3-medium"]
    weights = to_mmdit(to_mlx(stability_weights(config)))
    assert weights is not None
    kit = CorrectedMMDiT(kit_config(config))
    load_weights_into(kit, weights, "kit")
    x, text, pooled = inputs(config, 2, 8, 8)
    first = run(kit, x, text, pooled, [1000.0, 500.0], 1)
    other = run(kit, x, text, pooled[::-1].copy(), [500.0], 0)
    assert np.abs(first - other).max() > 1e-3
    again = run(kit, x, text, pooled, [500.0], 0)
    assert np.abs(again - first).max() <= 1e-5
    after = dict(tree_flatten(kit.parameters()))
    assert after.keys() == weights.keys() and all(mx.array_equal(after[key], weights[key]) for key in weights)


@pytest.mark.parametrize("dtype, bound", [(mx.float16, 0.005), (mx.bfloat16, 0.03)])
def test_timestep_embedding_stays_exact_in_16_bits(dtype, bound):
    config = FAMILIES["sd3-medium"]
    weights = to_mmdit(to_mlx(stability_weights(config)))
    assert weights is not None
    kit, half = CorrectedMMDiT(kit_config(config)), CorrectedMMDiT(kit_config(config, dtype))
    load_weights_into(kit, weights, "kit")
    load_weights_into(half, {key: value.astype(dtype) for key, value in weights.items()}, "half")
    exact, close = (m.t_embedder(mx.array([1000.0, 602.15])).astype(mx.float32) for m in (kit, half))
    assert mx.abs(close - exact).max().item() < bound * mx.abs(exact).max().item()
    stock = DK.mmdit.TimestepAdapter(kit_config(config, dtype))
    stock.mlp = half.t_embedder.mlp
    wrong = stock(mx.array([1000.0, 602.15])).astype(mx.float32)
    assert mx.abs(wrong - exact).max().item() > 5 * bound * mx.abs(exact).max().item()


# The whole pipeline


@pytest.fixture(scope="module")
def pipeline(small: SmallModel) -> CorrectedPipeline:
    return make_pipeline(small)


def make_pipeline(small: SmallModel, **options) -> CorrectedPipeline:
    return CorrectedPipeline(small.files, kit_config(mmdit_config()), vae_shape=SHAPE, **options)


def draw(pipeline, prompt, cfg_weight, seed=1) -> np.ndarray:
    image, log = pipeline.generate_image(
        prompt, num_steps=3, cfg_weight=cfg_weight, latent_size=(8, 12), seed=seed, verbose=True
    )
    assert (
        set(log["denoising"]) == {"pre", "post", "time", "iter_time"}
        and len(log["denoising"]["iter_time"]) == 3
    )
    return np.array(image)


def ours(small: SmallModel, pipeline, prompt, cfg_weight, seed=1) -> np.ndarray:
    """The same picture by ditq's own transformer, denoiser and sampler."""
    tokens, pooled = pipeline.encode_text(prompt, 5.0)
    conditioning = Conditioning(tokens, pooled)
    noise = np.random.RandomState(seed).randn(1, 16, 8, 12).astype(np.float32).transpose(0, 2, 3, 1)
    sigmas = diffusionkit_sigmas(3, 3.0)
    denoiser = Denoiser(load_mmdit(small.files.transformer(), mmdit_config()), compiled=False)
    denoise = denoiser.run(conditioning[:1], conditioning[1:] if cfg_weight else None, sigmas, cfg_weight)
    return VAE(small.files.vae(), SHAPE).decode(sample(denoise, mx.array(noise), sigmas))[0]


@pytest.mark.parametrize("cfg_weight", [5.0, 0.0])
def test_pictures_equal_ours_for_two_prompts_in_a_row(small, pipeline, cfg_weight, monkeypatch):
    loaded = pipeline.mmdit
    monkeypatch.setattr(
        pipeline, "load_mmdit", lambda *args, **kwargs: pytest.fail("the transformer was loaded again")
    )
    pictures = [draw(pipeline, prompt, cfg_weight) for prompt in ("the red fox", "a castle in the snow")]
    assert pipeline.mmdit is loaded
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() > 5
    for prompt, picture in zip(("the red fox", "a castle in the snow"), pictures, strict=True):
        wanted = ours(small, pipeline, prompt, cfg_weight)
        assert picture.shape == wanted.shape == (64, 96, 3)
        assert np.abs(picture.astype(int) - wanted).max() <= 1
        assert (picture != wanted).mean() < 0.01


def test_it_is_a_stock_pipeline_and_stock_classes_stay_as_they_are(pipeline):
    assert isinstance(pipeline, DK.DiffusionPipeline) and isinstance(pipeline.mmdit, DK.mmdit.MMDiT)
    stock = DK.mmdit.Attention(8, 2)
    assert "bias" not in stock.k_proj
    assert DK.CFGDenoiser.clear_cache.__module__ == "diffusionkit.mlx"
    assert DK.config.SD3_2b.low_memory_mode and DK.model_io.LOCAl_SD3_CKPT is None


def test_16_bit_pipeline_is_close_to_the_exact_one(small, pipeline):
    half = make_pipeline(small, w16=True, a16=True)
    exact, close = draw(pipeline, "the red fox", 5.0).astype(int), draw(half, "the red fox", 5.0)
    assert np.abs(exact - close).mean() < 2


def test_text_encoders_are_kept_only_outside_low_memory_mode(small):
    frugal, generous = make_pipeline(small), make_pipeline(small, low_memory_mode=False)
    for each in (frugal, generous):
        each.encode_text("the red fox")
    assert not frugal._text._kept and set(generous._text._kept) == {"clip_l", "clip_g", "t5"}
    generous.unload_t5()
    assert not generous._text._kept and not generous.use_t5
    assert not generous.encode_text("the red fox")[0][:, 77:].any()


def test_use_t5_false_is_kept_to(small):
    without = make_pipeline(small, use_t5=False)
    draw(without, "the red fox", 5.0)
    assert not without.use_t5


def test_image_to_image_starts_from_the_encoded_picture(small, pipeline, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "start.png")
    latents = VAE(small.files.vae(), SHAPE).encode(pixels[None])
    encoded = pipeline.encode_image_to_latents(str(tmp_path / "start.png"), seed=1)
    assert np.abs(np.array((encoded - SHIFT) * SCALE - latents)).max() < 1e-5
    Image.fromarray(pixels[:, :, 0]).resize((70, 100)).save(tmp_path / "grey.png")
    image, log = pipeline.generate_image(
        "the red fox", 4, 0.0, latent_size=(8, 8), seed=1, image_path=str(tmp_path / "grey.png"), denoise=0.5
    )
    assert image.size == (64, 64) and len(log["denoising"]["iter_time"]) == 2


def test_it_leaves_numpys_generator_alone_and_its_noise_is_diffusionkits(pipeline):
    x = mx.zeros((1, 4, 6, 16))
    state = np.random.get_state()[1].copy()
    ours = pipeline.get_noise(7, x)
    assert np.array_equal(np.random.get_state()[1], state)
    assert mx.array_equal(ours, DK.DiffusionPipeline.get_noise(pipeline, 7, x))


def test_what_diffusionkit_cannot_run_is_refused(pipeline, monkeypatch):
    with pytest.raises(UserError, match="got sd3.5-medium; expected sd3-medium or sd3.5-large"):
        patched_pipeline("sd3.5-medium")
    with pytest.raises(UserError, match="latent size"):
        pipeline.generate_image("a fox", latent_size=(7, 8))
    with pytest.raises(UserError, match="no such file or folder"):
        patched_pipeline("sd3-medium", "/nowhere")


def test_stock_sampling_without_guidance_fails(small, pipeline):
    """Why cfg_weight=0 needs a correction: the stock denoiser hands two rows of text to one row of latents."""
    tokens, pooled = pipeline.encode_text("the red fox", 5.0)
    pipeline.mmdit.cache_modulation_params(pooled, mx.array([1000.0]))
    stock = DK.CFGDenoiser(pipeline)
    with pytest.raises(ValueError, match="layer_norm"):
        mx.eval(stock(mx.zeros((1, 8, 8, 16)), mx.array(1000.0), mx.array(1.0), tokens, 0.0))


def test_hub_names_match_diffusionkits():
    known = DK.model_io._MMDIT
    for name in ("sd3-medium", "sd3.5-large"):
        source = hub.CHECKPOINTS[name]
        assert known[source.repo] == {source.repo: source.file, "vae": source.file}
    files = set(DK.model_io._MODELS["argmaxinc/stable-diffusion"].values())
    assert files == {
        source.file for source in hub.TEXT.values() if source.repo == "argmaxinc/stable-diffusion"
    }


def test_sdpa_threshold_is_what_low_memory_mode_asks_for():
    config = replace(kit_config(FAMILIES["sd3-medium"]), low_memory_mode=True)
    stock = DK.mmdit.MMDiT(config)
    x, text, pooled = inputs(FAMILIES["sd3-medium"], 1, 8, 8)
    with pytest.raises(TypeError):
        run(stock, x, text, pooled, [500.0], 0)
