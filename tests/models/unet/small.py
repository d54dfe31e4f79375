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


def original_weights(config: UNetConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names and shapes of the original files, in the order in which their UNet is built."""
    rng, weights = np.random.default_rng(seed), {}
    time_dim, widths = 4 * config.block_out_channels[0], config.block_out_channels

    def param(name: str, *shape: int, around: float = 0.0) -> None:
        spread = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.3
        weights[name] = (around + spread * rng.standard_normal(shape)).astype(np.float32)

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        param(f"{name}.weight", *shape)
        if bias:
            param(f"{name}.bias", shape[0])

    def norm(name: str, width: int) -> None:
        param(f"{name}.weight", width, around=1.0), param(f"{name}.bias", width)

    def resnet(name: str, into: int, out: int) -> None:
        norm(f"{name}.in_layers.0", into), layer(f"{name}.in_layers.2", out, into, 3, 3)
        layer(f"{name}.emb_layers.1", out, time_dim)
        norm(f"{name}.out_layers.0", out), layer(f"{name}.out_layers.3", out, out, 3, 3)
        if into != out:
            layer(f"{name}.skip_connection", out, into, 1, 1)

    def transformer(name: str, width: int) -> None:
        side = () if config.linear_projection else (1, 1)
        norm(f"{name}.norm", width)
        layer(f"{name}.proj_in", width, width, *side), layer(f"{name}.proj_out", width, width, *side)
        inner = f"{name}.transformer_blocks.0"
        for number, context in ((1, width), (2, config.text_embed_dim)):
            layer(f"{inner}.attn{number}.to_q", width, width, bias=False)
            layer(f"{inner}.attn{number}.to_k", width, context, bias=False)
            layer(f"{inner}.attn{number}.to_v", width, context, bias=False)
            layer(f"{inner}.attn{number}.to_out.0", width, width)
        for number in (1, 2, 3):
            norm(f"{inner}.norm{number}", width)
        layer(f"{inner}.ff.net.0.proj", 8 * width, width), layer(f"{inner}.ff.net.2", width, 4 * width)

    layer("time_embed.0", time_dim, widths[0]), layer("time_embed.2", time_dim, time_dim)
    layer("input_blocks.0.0", widths[0], config.in_channels, 3, 3)
    skips, now, number = [widths[0]], widths[0], 1
    for level, width in enumerate(widths):
        for _ in range(config.layers_per_block):
            resnet(f"input_blocks.{number}.0", now, width)
            if level in config.attention_levels:
                transformer(f"input_blocks.{number}.1", width)
            now, number = width, number + 1
            skips.append(now)
        if level < len(widths) - 1:
            layer(f"input_blocks.{number}.0.op", now, now, 3, 3)
            number += 1
            skips.append(now)
    resnet("middle_block.0", now, now), transformer("middle_block.1", now), resnet("middle_block.2", now, now)
    number = 0
    for level in reversed(range(len(widths))):
        for i in range(config.layers_per_block + 1):
            resnet(f"output_blocks.{number}.0", now + skips.pop(), widths[level])
            now = widths[level]
            attends = level in config.attention_levels
            if attends:
                transformer(f"output_blocks.{number}.1", now)
            if level and i == config.layers_per_block:
                layer(f"output_blocks.{number}.{1 + attends}.conv", now, now, 3, 3)
            number += 1
    norm("out.0", now), layer("out.2", config.out_channels, now, 3, 3)
    return weights


def converted(config: UNetConfig, original: dict[str, np.ndarray]) -> UNet2DConditionModel:
    """The `diffusers` UNet with these weights, converted by `diffusers`' own code."""
    import torch
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    model = diffusers_model(config, random=False)
    tensors = {f"model.diffusion_model.{name}": torch.from_numpy(value) for name, value in original.items()}
    model.load_state_dict(convert_ldm_unet_checkpoint(tensors, {"layers_per_block": config.layers_per_block}))
    return model
