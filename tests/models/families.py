"""Small random models of the SD3 family for parity tests: Stability's layout, and the same weights in `diffusers`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from ditq.models.mmdit.config import MMDiTConfig

if TYPE_CHECKING:  # they take seconds to import: only the tests that compare with them wait for that
    import torch
    from diffusers import SD3Transformer2DModel

SMALL = dict(
    num_heads=4, depth_multimodal=3, hidden_size_override=64, vae_latent_dim=16, max_latent_resolution=24,
    pooled_text_embed_dim=48, token_level_text_embed_dim=40,
)  # fmt: skip
FAMILIES = {
    "sd3-medium": MMDiTConfig(**SMALL),
    "sd3.5-medium": MMDiTConfig(**SMALL, use_qk_norm=True, dual_attention_blocks=(0, 1)),
    "sd3.5-large": MMDiTConfig(**SMALL, use_qk_norm=True),
}


def stability_weights(config: MMDiTConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights under the names and shapes of Stability's files, without prefix."""
    rng = np.random.default_rng(seed)
    hidden, head = config.hidden_size, config.hidden_size // config.num_heads
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, into), (out,)

    def attend(name: str, has_output: bool = True) -> None:
        linear(f"{name}.qkv", 3 * hidden, hidden)
        if has_output:
            linear(f"{name}.proj", hidden, hidden)
        if config.use_qk_norm:
            shapes[f"{name}.ln_q.weight"] = shapes[f"{name}.ln_k.weight"] = (head,)

    for i in range(config.depth_multimodal):
        dual, last = i in config.dual_attention_blocks, i == config.depth_multimodal - 1
        for stream, ends, chunks in (
            ("x_block", False, 9 if dual else 6),
            ("context_block", last, 2 if last else 6),
        ):
            block = f"joint_blocks.{i}.{stream}"
            linear(f"{block}.adaLN_modulation.1", chunks * hidden, hidden)
            attend(f"{block}.attn", not ends)
            if dual and stream == "x_block":
                attend(f"{block}.attn2")
            if not ends:
                linear(f"{block}.mlp.fc1", config.mlp_ratio * hidden, hidden)
                linear(f"{block}.mlp.fc2", hidden, config.mlp_ratio * hidden)
    for name, dims in (
        ("t_embedder", config.frequency_embed_dim),
        ("y_embedder", config.pooled_text_embed_dim),
    ):
        linear(f"{name}.mlp.0", hidden, dims)
        linear(f"{name}.mlp.2", hidden, hidden)
    linear("context_embedder", hidden, config.token_level_text_embed_dim)
    linear("final_layer.linear", config.patch_size**2 * config.vae_latent_dim, hidden)
    linear("final_layer.adaLN_modulation.1", 2 * hidden, hidden)
    shapes["x_embedder.proj.weight"] = (hidden, config.vae_latent_dim, config.patch_size, config.patch_size)
    shapes["x_embedder.proj.bias"] = (hidden,)
    shapes["pos_embed"] = (1, config.max_latent_resolution**2, hidden)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values = rng.standard_normal(shape) / np.sqrt(fan_in)
        return (1 + 0.2 * values if ".ln_" in name else 0.5 * values if len(shape) == 1 else values).astype(
            np.float32
        )

    return {name: draw(name, shape) for name, shape in shapes.items()}


def diffusers_model(
    config: MMDiTConfig, stability: dict[str, np.ndarray] | None = None
) -> SD3Transformer2DModel:
    """The `diffusers` transformer of this shape, with weights (if given) converted by `diffusers`' own code."""
    import torch
    from diffusers import SD3Transformer2DModel
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    model = SD3Transformer2DModel(
        sample_size=16, patch_size=config.patch_size, in_channels=config.vae_latent_dim,
        num_layers=config.depth_multimodal, attention_head_dim=config.hidden_size // config.num_heads,
        num_attention_heads=config.num_heads, joint_attention_dim=config.token_level_text_embed_dim,
        caption_projection_dim=config.hidden_size, pooled_projection_dim=config.pooled_text_embed_dim,
        out_channels=config.vae_latent_dim, pos_embed_max_size=config.max_latent_resolution,
        dual_attention_layers=config.dual_attention_blocks, qk_norm="rms_norm" if config.use_qk_norm else None,
    )  # fmt: skip
    if stability is not None:
        tensors = {name: torch.from_numpy(value.copy()) for name, value in stability.items()}
        model.load_state_dict(convert_sd3_transformer_checkpoint_to_diffusers(tensors))
    return model.eval()


def to_mlx(weights: dict[str, np.ndarray]) -> dict[str, mx.array]:
    """The same arrays in MLX."""
    return {name: mx.array(value) for name, value in weights.items()}


def state_arrays(model: torch.nn.Module) -> dict[str, mx.array]:
    """A torch module's state as MLX arrays, as its safetensors file would hold it."""
    return {name: mx.array(value.numpy()) for name, value in model.state_dict().items()}


def inputs(config: MMDiTConfig, batch: int, height: int, width: int, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Random latents (NHWC), 7 text tokens and pooled text of the config's sizes."""
    rng = np.random.default_rng(seed)
    shapes = [(batch, height, width, config.vae_latent_dim), (batch, 7, config.token_level_text_embed_dim)]
    shapes.append((batch, config.pooled_text_embed_dim))
    return tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes)
