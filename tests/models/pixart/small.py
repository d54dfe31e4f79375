"""Small random PixArt transformers for parity tests: `diffusers`' module, and inputs of its sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ditq.models.pixart.config import PixArtConfig

if TYPE_CHECKING:  # it takes seconds to import: only the tests that compare with it wait for that
    import torch
    from diffusers import PixArtTransformer2DModel

SMALL = dict(num_heads=4, head_dim=12, depth=3, text_embed_dim=40)
CONFIGS = {
    "alpha": PixArtConfig(**SMALL, sample_size=128),
    "alpha 512": PixArtConfig(**SMALL, sample_size=64, position_scale=1.0, size_conditioned=False),
    "sigma": PixArtConfig(**SMALL, sample_size=128, size_conditioned=False),
    "without variance": PixArtConfig(
        num_heads=2, head_dim=16, depth=2, text_embed_dim=24, sample_size=8, position_scale=0.5,
        size_conditioned=False, learned_variance=False, latent_channels=16, mlp_ratio=4,
    ),
}  # fmt: skip
TEXT_TOKENS = 7


def diffusers_model(config: PixArtConfig, random: bool = True) -> PixArtTransformer2DModel:
    """The `diffusers` transformer of this shape; its parameters random, so that activations stay around one."""
    import torch
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        num_attention_heads=config.num_heads, attention_head_dim=config.head_dim, num_layers=config.depth,
        in_channels=config.latent_channels, out_channels=config.out_channels, sample_size=config.sample_size,
        cross_attention_dim=config.hidden_size, caption_channels=config.text_embed_dim,
        patch_size=config.patch_size, interpolation_scale=config.position_scale,
        use_additional_conditions=config.size_conditioned,
    )  # fmt: skip
    if random:
        torch.manual_seed(0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                spread = 0.3 if p.ndim == 1 or "table" in name else p[0].numel() ** -0.5
                p.copy_(spread * torch.randn_like(p))
    return model.eval()


def state_arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """A torch module's state as NumPy arrays, as its safetensors file would hold it."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def to_mlx(weights: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """The same arrays in MLX."""
    return {name: mx.array(value) for name, value in weights.items()}


def inputs(
    config: PixArtConfig, batch: int, height: int, width: int, seed: int = 1
) -> tuple[np.ndarray, ...]:
    """Random latents (NHWC), text tokens of the config's sizes, and a mask that leaves from one to all of them."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, height, width, config.latent_channels), (batch, TEXT_TOKENS, config.text_embed_dim)]
    latents, text = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
    lengths = np.resize([3, TEXT_TOKENS, 1], batch)
    mask = (np.arange(TEXT_TOKENS) < lengths[:, None]).astype(np.float32)
    return latents, text, mask


def reference_noise(model, config: PixArtConfig, latents, text, mask, timestep: float) -> np.ndarray:
    """What `diffusers` predicts, as its pipeline calls it: (batch, height, width, channels), without the variance."""
    import torch

    batch, height, width, channels = latents.shape
    sizes = {"resolution": None, "aspect_ratio": None}
    if config.size_conditioned:
        sizes["resolution"] = torch.tensor([8.0 * height, 8.0 * width]).repeat(batch, 1)
        sizes["aspect_ratio"] = torch.tensor([height / width]).repeat(batch, 1)
    with torch.no_grad():
        predicted = model(
            torch.from_numpy(latents.transpose(0, 3, 1, 2).copy()),
            encoder_hidden_states=torch.from_numpy(text), encoder_attention_mask=torch.from_numpy(mask),
            timestep=torch.tensor([timestep]).expand(batch), added_cond_kwargs=sizes, return_dict=False,
        )[0]  # fmt: skip
    return predicted[:, :channels].numpy().transpose(0, 2, 3, 1)
