"""Quantized checkpoints in a live DiffusionKit pipeline, against the same checkpoints in our own transformer."""

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from ditq.checkpoint import inject, injected, write_folder
from ditq.core.spec import Spec
from ditq.models.base import Conditioning
from ditq.models.diffusionkit.corrections import DK
from ditq.models.diffusionkit.vae import VAE
from ditq.models.mmdit.loading import load_mmdit
from ditq.nn import clock_of
from ditq.sampling.guidance import Denoiser
from ditq.sampling.schedules import diffusionkit_sigmas
from ditq.sampling.steppers import sample
from tests.checkpoint.small import checkpoint
from tests.models.diffusionkit.small import SHAPE, SmallModel, mmdit_config
from tests.models.diffusionkit.test_pipeline import draw, kit_config, make_pipeline, run
from tests.models.families import FAMILIES, inputs, stability_weights, to_mlx
from tests.models.mmdit.test_model import loaded


@pytest.mark.parametrize("spec", [Spec(4), Spec(4, True, 32)], ids=str)
def test_a_stock_transformer_with_stock_quantized_layers_computes_our_w4a16(spec):
    """Not ours at all: DiffusionKit's own MMDiT, and MLX's own QuantizedLinear, found at the checkpoint's paths."""
    config = FAMILIES["sd3-medium"]
    weights = {k: mx.zeros_like(v) if "k_proj.bias" in k else v for k, v in _mapped(config).items()}
    ours = loaded(config, weights)
    parts = checkpoint(ours, spec, activations=False)
    stock = DK.mmdit.MMDiT(kit_config(config, low_memory_mode=False))
    stock.load_weights([(k, v) for k, v in weights.items() if "k_proj.bias" not in k])
    for _, module in stock.named_modules():
        if isinstance(module, DK.mmdit.FFN):
            module.act_fn = nn.gelu_approx
    x, text, pooled = inputs(config, 2, 8, 8)
    before = run(stock, x, text, pooled, [602.15], 0)
    inject(stock, parts, activations=False, backend="packed", anatomy=ours.anatomy)
    paths = {path for path, module in stock.named_modules() if isinstance(module, nn.QuantizedLinear)}
    assert paths == set(parts.weights)
    with injected(ours, parts, activations=False):
        wanted = np.array(ours(mx.array(x), **prepared(ours, text, pooled)))
    got = run(stock_again(stock, config, weights), x, text, pooled, [602.15], 0)
    assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max()
    assert np.abs(got - before).max() > 0.01


def prepared(network, text, pooled) -> dict[str, mx.array]:
    """The network's arguments beside the latents, at timestep 602.15."""
    return network.prepare(Conditioning(mx.array(text), mx.array(pooled)), mx.array([602.15])).at(0)


def stock_again(stock, config, weights):
    """The stock transformer with the adaLN weights that it emptied after its first picture."""
    stock.clear_modulation_params_cache()
    stock.load_weights([(k, v) for k, v in weights.items() if "adaLN" in k], strict=False)
    return stock


def _mapped(config) -> dict[str, mx.array]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(loaded(config, to_mlx(stability_weights(config))).parameters()))


@pytest.mark.parametrize("activations", [False, True], ids=["w4a16", "w4a8"])
def test_pictures_of_a_live_pipeline_equal_ours(small: SmallModel, activations):
    pipeline = make_pipeline(small)
    plain = draw(pipeline, "the red fox", 5.0)
    mmdit = load_mmdit(small.files.transformer(), mmdit_config())
    parts = checkpoint(mmdit, Spec(4), smooth=True)
    backend = None if activations else "packed"
    inject(pipeline.mmdit, parts, activations, backend, anatomy=mmdit.anatomy)
    inject(mmdit, parts, activations)
    assert (clock_of(pipeline.mmdit) is not None) == activations
    picture = draw(pipeline, "the red fox", 5.0).astype(int)
    wanted = ours(small, pipeline, mmdit, "the red fox", 5.0)
    # W4A8: an input on the edge of two codes may fall to either side
    assert np.abs(picture - wanted).mean() < (1.0 if activations else 0.01)
    assert np.abs(picture - plain).mean() > 5


def ours(small, pipeline, mmdit, prompt, cfg_weight) -> np.ndarray:
    tokens, pooled = pipeline.encode_text(prompt, cfg_weight)
    conditioning = Conditioning(tokens, pooled)
    noise = np.random.RandomState(1).randn(1, 16, 8, 12).astype(np.float32).transpose(0, 2, 3, 1)
    sigmas = diffusionkit_sigmas(3, 3.0)
    denoise = Denoiser(mmdit).run(conditioning[:1], conditioning[1:], sigmas, cfg_weight)
    return VAE(small.files.vae(), SHAPE).decode(sample(denoise, mx.array(noise), sigmas))[0]


def test_an_exported_folder_loads_into_a_stock_transformer_without_ditq(tmp_path):
    """DiffusionKit's MMDiT, `nn.quantize` by config.json, `load_weights`: all but the key biases, which it has not."""
    config = FAMILIES["sd3-medium"]
    weights = {k: mx.zeros_like(v) if "k_proj.bias" in k else v for k, v in _mapped(config).items()}
    ours = loaded(config, weights)
    parts = checkpoint(ours, Spec(4), smooth=True)
    write_folder(tmp_path, ours, parts, mx.float32)
    told = json.loads((tmp_path / "config.json").read_text())["quantization"]
    stock = DK.mmdit.MMDiT(kit_config(config, low_memory_mode=False))
    nn.quantize(stock, class_predicate=lambda path, module: told.get(path, False))
    arrays = mx.load(str(tmp_path / "model.safetensors"))
    stock.load_weights([(k, v) for k, v in arrays.items() if not k.endswith("k_proj.bias")], strict=True)
    for _, module in stock.named_modules():
        if isinstance(module, DK.mmdit.FFN):
            module.act_fn = nn.gelu_approx
    x, text, pooled = inputs(config, 2, 8, 8)
    got = run(stock, x, text, pooled, [602.15], 0)
    with injected(ours, parts, activations=False):
        wanted = np.array(ours(mx.array(x), **prepared(ours, text, pooled)))
    assert np.abs(got - wanted).max() <= 2e-5 * np.abs(wanted).max()
