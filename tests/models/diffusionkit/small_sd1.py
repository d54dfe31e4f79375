"""A whole small Stable Diffusion 1 in random files: a diffusers folder, and the same weights as an original file."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ditq.models.diffusionkit.vae import SD_VAE
from ditq.models.unet.config import UNetConfig
from tests.models.diffusionkit.small import ldm_vae_weights, randomised, save, write_clip_tokenizer
from tests.models.unet.small import converted, original_weights

WIDTH = 64
"""Of the text: one head of CLIP."""
CONFIG = UNetConfig(
    block_out_channels=(32, 64),
    attention_levels=(0,),
    num_heads=(2, 2),
    text_embed_dim=WIDTH,
    layers_per_block=1,
)
VAE_SHAPE = replace(SD_VAE, block_out_channels=(32, 32, 64, 64))
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@dataclass(frozen=True)
class SmallSD1:
    """The folder, the original file (without a tokenizer beside it), and the torch modules whose weights they hold."""

    folder: Path
    file: Path
    unet: Any
    clip: Any
    vae: Any


def vae_weights() -> dict[str, np.ndarray]:
    """Those of the original file."""
    rng, weights = np.random.default_rng(5), ldm_vae_weights(VAE_SHAPE)
    for name, channels in (("quant_conv", 8), ("post_quant_conv", 4)):
        kernel = rng.standard_normal((channels, channels, 1, 1)) / np.sqrt(channels)
        weights[f"first_stage_model.{name}.weight"] = kernel.astype(np.float32)
        weights[f"first_stage_model.{name}.bias"] = rng.standard_normal(channels).astype(np.float32)
    return weights


def vae_model(weights: dict[str, np.ndarray]) -> Any:
    """The `diffusers` VAE with these weights, converted by its own code."""
    import torch
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    model = AutoencoderKL(
        block_out_channels=VAE_SHAPE.block_out_channels, layers_per_block=2, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    model.load_state_dict(convert_ldm_vae_checkpoint(tensors, dict(model.config)))
    return model.eval()


def clip_model(vocab: int) -> Any:
    """A random CLIP without a projection."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocab, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=3, num_attention_heads=1,
        hidden_act="quick_gelu", bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=vocab - 1,
    )  # fmt: skip
    return randomised(CLIPTextModel(config))


def write_sd1(folder: Path) -> SmallSD1:
    """Writes the folder `folder`/diffusers and the file `folder`/single/v1-5-pruned-emaonly.safetensors."""
    home, file = folder / "diffusers", folder / "single" / "v1-5-pruned-emaonly.safetensors"
    vocab = write_clip_tokenizer(home / "tokenizer")
    original, ldm = original_weights(CONFIG), vae_weights()
    unet, vae, clip = converted(CONFIG, original), vae_model(ldm), clip_model(len(vocab))
    unet.save_pretrained(home / "unet")
    clip.save_pretrained(home / "text_encoder")
    vae.save_pretrained(home / "vae")
    text = {
        f"text_model.{key.removeprefix('text_model.')}": value for key, value in clip.state_dict().items()
    }
    whole = {f"cond_stage_model.transformer.{key}": value.numpy() for key, value in text.items()}
    whole |= {f"model.diffusion_model.{key}": value for key, value in original.items()}
    whole |= ldm | {"alphas_cumprod": np.zeros(1000, np.float32)}
    save(file, whole)
    index = {"_class_name": "StableDiffusionPipeline"}
    (home / "model_index.json").write_text(json.dumps(index))
    (home / "scheduler").mkdir()
    scheduler = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear"}
    (home / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return SmallSD1(home, file, unet, clip, vae)
