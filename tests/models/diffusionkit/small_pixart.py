"""A whole small PixArt-alpha in random files: a diffusers folder, its text encoder in shards as on the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ditq.models.pixart.config import PixArtConfig
from tests.models.diffusionkit.small import WIDTH, t5_model, write_sentencepieces
from tests.models.diffusionkit.small_sd1 import VAE_SHAPE as SD_SHAPE
from tests.models.diffusionkit.small_sd1 import vae_model, vae_weights
from tests.models.pixart.small import diffusers_model

CONFIG = PixArtConfig(num_heads=4, head_dim=24, depth=3, text_embed_dim=WIDTH)
SHAPE = SD_SHAPE


@dataclass(frozen=True)
class SmallPixArt:
    """The folder, and the torch modules whose weights it holds."""

    folder: Path
    transformer: Any
    t5: Any
    vae: Any


def write_pixart(folder: Path, config: PixArtConfig = CONFIG) -> SmallPixArt:
    """Writes the folder."""
    import torch

    transformer = diffusers_model(config)
    torch.manual_seed(1)
    t5, vae = t5_model(), vae_model(vae_weights())
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    t5.save_pretrained(folder / "text_encoder", max_shard_size="200KB")
    (folder / "tokenizer").mkdir()
    write_sentencepieces(folder / "tokenizer" / "spiece.model")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "PixArtAlphaPipeline"}))
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "linear"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return SmallPixArt(folder, transformer, t5, vae)


def moved(latents: np.ndarray) -> np.ndarray:
    """NHWC as NCHW."""
    return latents.transpose(0, 3, 1, 2).copy()
