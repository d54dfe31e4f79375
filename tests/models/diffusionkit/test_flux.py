"""DiffusionKit's transformer of FLUX, corrected, against `diffusers`, on random weights."""

import re

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel

from ditq.models.diffusionkit.corrections import DK, CorrectedMMDiT
from ditq.models.loading import load_weights_into
from ditq.models.mmdit.keymap import _DIFFUSERS
from tests.models.families import state_arrays

HIDDEN, AXES = 64, (4, 6, 6)
KIT = DK.config.MMDiTConfig(
    num_heads=4, depth_multimodal=2, depth_unified=2, hidden_size_override=HIDDEN, patchify_via_reshape=True,
    pos_embed_type=DK.config.PositionalEncoding.PreSDPARope, rope_axes_dim=AXES, pooled_text_embed_dim=48,
    token_level_text_embed_dim=40, use_qk_norm=True, dtype=mx.float32,
)  # fmt: skip


def as_kit(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """The weights of diffusers' FLUX under DiffusionKit's paths."""
    mapped: dict[str, mx.array] = {}
    for key, value in weights.items():
        if key.startswith("single_transformer_blocks."):
            block = re.sub(
                r"^single_transformer_blocks\.(\d+)\..*",
                r"unified_transformer_blocks.\1.transformer_block",
                key,
            )
            rest = key.split(".", 2)[2]
            if rest == "proj_out.weight":
                mapped[f"{block}.attn.o_proj.weight"] = value[:, :HIDDEN]
                mapped[f"{block}.mlp.fc2.weight"] = value[:, HIDDEN:]
                continue
            if rest == "proj_out.bias":
                mapped[f"{block}.attn.o_proj.bias"] = mapped[f"{block}.mlp.fc2.bias"] = value
                continue
            for old, new in (
                (r"^norm\.linear", "adaLN_modulation.layers.1"),
                (r"^proj_mlp", "mlp.fc1"),
                (r"^attn\.to_([qkv])\.", r"attn.\1_proj."),
                (r"^attn\.norm_([qk])\.", r"qk_norm.\1_norm."),
            ):
                rest = re.sub(old, new, rest)
            mapped[f"{block}.{rest}"] = value
            continue
        key = re.sub(r"^time_text_embed\.guidance_embedder\.linear_1\.", "guidance_in.mlp.layers.0.", key)
        key = re.sub(r"^time_text_embed\.guidance_embedder\.linear_2\.", "guidance_in.mlp.layers.2.", key)
        key = re.sub(r"^x_embedder\.", "x_embedder.proj.", key)
        for old, new in _DIFFUSERS:
            key = re.sub(old, new, key)
        if key.startswith("final_layer.adaLN"):  # diffusers keeps scale, shift
            value = mx.concatenate(mx.split(value, 2)[::-1])
        mapped[key] = value[:, None, None] if key == "x_embedder.proj.weight" else value
    return mapped


@pytest.mark.parametrize("guidance_embed", [False, True], ids=["schnell", "dev"])
def test_velocity_equals_diffusers(guidance_embed):
    torch.manual_seed(0)
    reference = FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=40, pooled_projection_dim=48, guidance_embeds=guidance_embed, axes_dims_rope=AXES,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for p in reference.parameters():
            p.add_(0.1 * torch.randn_like(p))
    config = DK.config.MMDiTConfig(**{**vars(KIT), "guidance_embed": guidance_embed})
    kit = CorrectedMMDiT(config)
    load_weights_into(kit, as_kit(state_arrays(reference)), "flux")
    kit.guidance = 0.5  # 1000 times as large an angle: at 3.5, float32 leaves 1e-4 on both sides
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 12, 16)).astype(np.float32)
    text = rng.standard_normal((2, 7, 40)).astype(np.float32)
    pooled = rng.standard_normal((2, 48)).astype(np.float32)
    packed = x.reshape(2, 4, 2, 6, 2, 16).transpose(0, 1, 3, 5, 2, 4).reshape(2, 24, 64)
    rows, columns = np.meshgrid(np.arange(4), np.arange(6), indexing="ij")
    places = np.stack([0 * rows, rows, columns], axis=-1).reshape(24, 3).astype(np.float32)
    for timestep in (1000.0, 602.15):
        with torch.no_grad():
            wanted = reference(
                torch.from_numpy(packed), torch.from_numpy(text), torch.from_numpy(pooled),
                torch.full((2,), timestep / 1000), torch.from_numpy(places), torch.zeros((7, 3)),
                guidance=torch.full((2,), 0.5) if guidance_embed else None, return_dict=False,
            )[0].numpy()  # fmt: skip
        wanted = wanted.reshape(2, 4, 6, 16, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(2, 8, 12, 16)
        kit.cache_modulation_params(mx.array(pooled), mx.array([timestep]))
        got = kit(mx.array(x), mx.array(text)[:, :, None], mx.array([timestep] * 2))
        assert np.abs(np.array(got) - wanted).max() <= 1e-4
