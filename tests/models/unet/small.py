"""Small random UNets for parity tests: `diffusers`' module, and the same weights under the original names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ditq.models.unet.config import UNetConfig

if TYPE_CHECKING:  # it takes seconds to import: only the tests that compare with it wait for that
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

SMALL = UNetConfig(
    block_out_channels=(32, 64, 64), attention_levels=(0, 1), num_heads=(2, 2, 2), text_embed_dim=40,
    norm_groups=8,
)  # fmt: skip
CONFIGS = {
    "sd1": SMALL,
    "linear projections, heads by level": UNetConfig(
        block_out_channels=(32, 64), attention_levels=(0, 1), num_heads=(2, 4), text_embed_dim=24,
        norm_groups=16, linear_projection=True, layers_per_block=1,
    ),
    "attention in the middle alone": UNetConfig(
        block_out_channels=(32, 32), attention_levels=(), num_heads=(4, 4), text_embed_dim=24, norm_groups=32,
    ),
}  # fmt: skip


def diffusers_model(config: UNetConfig, random: bool = True) -> UNet2DConditionModel:
    """The `diffusers` UNet of this shape; its parameters random, of the size that keeps activations around one."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from ditq.models.unet.loading import diffusers_fields

    fields = {key: value for key, value in diffusers_fields(config).items() if not key.startswith("_")}
    model = UNet2DConditionModel(**fields)
    if random:
        torch.manual_seed(0)
        with torch.no_grad():
            for name, p in model.named_parameters():
                is_scale = p.ndim == 1 and "norm" in name and name.endswith("weight")
                spread = 0.3 if p.ndim == 1 else p[0].numel() ** -0.5
                p.copy_(is_scale + spread * torch.randn_like(p))
    return model.eval()


def state_arrays(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """A torch module's state as NumPy arrays, as its safetensors file would hold it."""
    return {name: value.numpy() for name, value in model.state_dict().items()}


def to_mlx(weights: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """The same arrays in MLX."""
    return {name: mx.array(value) for name, value in weights.items()}


def inputs(config: UNetConfig, batch: int, height: int, width: int, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Random latents (NHWC) and 7 text tokens of the config's sizes."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, height, width, config.in_channels), (batch, 7, config.text_embed_dim)]
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
