"""Checkpoint layouts of the SD3 family, each mapped to the parameter paths of `MMDiT`.

Three layouts are in use: Stability's single files, `diffusers` folders, and DiffusionKit's modules as saved by MLX,
whose paths are ours. Each map takes a flat dictionary and returns one; what it does not know it passes on under its
own name, so that loading can name it as extra.
"""

import re
from collections.abc import Callable, Iterable, Mapping

import mlx.core as mx

from ditq.core.errors import UserError
from ditq.models.foreign import renamed, rewritten
from ditq.models.loading import Weights

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "transformer.", "model.")
"""What stands before the transformer's keys: in Stability's and ComfyUI's files, pipelines and trainers' modules."""
_NOT_TRANSFORMER = (
    "first_stage_model.",
    "text_encoders.",
    "cond_stage_model.",
    "teacher_model.",
    "model_sampling.",
    "vae.",
    "text_encoder.",
    "text_encoder_2.",
    "text_encoder_3.",
    "model_ema.",
)
"""What else single files and whole pipelines hold."""

_STABILITY = (
    (r"^joint_blocks\.", "multimodal_transformer_blocks."),
    (r"\.x_block\.", ".image_transformer_block."),
    (r"\.context_block\.", ".text_transformer_block."),
    (r"\.attn\.ln_([qk])\.", r".qk_norm.\1_norm."),
    (r"\.attn2\.ln_([qk])\.", r".qk_norm2.\1_norm."),
    (r"\.(attn2?)\.proj\.", r".\1.o_proj."),
    (r"adaLN_modulation\.(\d)", r"adaLN_modulation.layers.\1"),
    (r"^([ty]_embedder)\.mlp\.(\d)", r"\1.mlp.layers.\2"),
    (r"^pos_embed$", "x_pos_embedder.pos_embed.weight"),
)

_DIFFUSERS = (
    (r"^transformer_blocks\.", "multimodal_transformer_blocks."),
    (r"\.attn\.to_([qkv])\.", r".image_transformer_block.attn.\1_proj."),
    (r"\.attn\.to_out\.0\.", ".image_transformer_block.attn.o_proj."),
    (r"\.attn\.add_([qkv])_proj\.", r".text_transformer_block.attn.\1_proj."),
    (r"\.attn\.to_add_out\.", ".text_transformer_block.attn.o_proj."),
    (r"\.attn\.norm_([qk])\.", r".image_transformer_block.qk_norm.\1_norm."),
    (r"\.attn\.norm_added_([qk])\.", r".text_transformer_block.qk_norm.\1_norm."),
    (r"\.attn2\.to_([qkv])\.", r".image_transformer_block.attn2.\1_proj."),
    (r"\.attn2\.to_out\.0\.", ".image_transformer_block.attn2.o_proj."),
    (r"\.attn2\.norm_([qk])\.", r".image_transformer_block.qk_norm2.\1_norm."),
    (r"\.norm1\.linear\.", ".image_transformer_block.adaLN_modulation.layers.1."),
    (r"\.norm1_context\.linear\.", ".text_transformer_block.adaLN_modulation.layers.1."),
    (r"\.ff\.net\.0\.proj\.", ".image_transformer_block.mlp.fc1."),
    (r"\.ff\.net\.2\.", ".image_transformer_block.mlp.fc2."),
    (r"\.ff_context\.net\.0\.proj\.", ".text_transformer_block.mlp.fc1."),
    (r"\.ff_context\.net\.2\.", ".text_transformer_block.mlp.fc2."),
    (r"^time_text_embed\.timestep_embedder\.linear_1\.", "t_embedder.mlp.layers.0."),
    (r"^time_text_embed\.timestep_embedder\.linear_2\.", "t_embedder.mlp.layers.2."),
    (r"^time_text_embed\.text_embedder\.linear_1\.", "y_embedder.mlp.layers.0."),
    (r"^time_text_embed\.text_embedder\.linear_2\.", "y_embedder.mlp.layers.2."),
    (r"^norm_out\.linear\.", "final_layer.adaLN_modulation.layers.1."),
    (r"^proj_out\.", "final_layer.linear."),
    (r"^pos_embed\.proj\.", "x_embedder.proj."),
    (r"^pos_embed\.pos_embed$", "x_pos_embedder.pos_embed.weight"),
)


def from_stability(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights:
    """Paths of Stability's files: queries, keys and values, which lie in one matrix there, apart."""
    parts: Weights = {}
    for key, value in weights.items():
        joined = re.match(r"(.*\.attn2?)\.qkv\.(weight|bias)$", key)
        if joined:
            letters = zip("qkv", _chunks(value, 3, key, source), strict=True)
            parts |= {f"{joined[1]}.{letter}_proj.{joined[2]}": part for letter, part in letters}
        else:
            parts[key] = value
    names = {key: rewritten(key, _STABILITY) for key in parts}
    return _torch_shapes(renamed(parts, names, source))


def from_diffusers(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights:
    """Paths of a `diffusers` SD3Transformer2DModel.

    There, the two-chunk modulations (final layer, last text block) are stored as scale, shift; here as everywhere
    else they are shift, scale.
    """
    mapped = renamed(weights, {key: rewritten(key, _DIFFUSERS) for key in weights}, source)
    depths = [
        int(found[1])
        for key in mapped
        if (found := re.match(r"multimodal_transformer_blocks\.(\d{1,9})\.", key))
    ]
    last = f"multimodal_transformer_blocks.{max(depths, default=0)}.text_transformer_block"
    for path in ("final_layer", last):
        for kind in ("weight", "bias"):
            key = f"{path}.adaLN_modulation.layers.1.{kind}"
            if key in mapped:
                scale, shift = _chunks(mapped[key], 2, key, source)
                mapped[key] = mx.concatenate([shift, scale])
    return _torch_shapes(mapped)


def from_diffusionkit(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights:
    """Our own paths and DiffusionKit's: nothing to rename."""
    return dict(weights)


Layout = Callable[[Mapping[str, mx.array], str], Weights]
LAYOUTS: tuple[tuple[str, Layout], ...] = (
    (r"joint_blocks\.", from_stability),
    (r"transformer_blocks\.\d+\.norm1_context\.", from_diffusers),
    (r"multimodal_transformer_blocks\.", from_diffusionkit),
)
"""What a key of each layout begins with, and its map."""


def to_mmdit(weights: Mapping[str, mx.array], source: str = "checkpoint") -> Weights | None:
    """`weights` under the parameter paths of `MMDiT`, their layout told by their keys; None if it is no known one.

    What stands before all keys of the transformer (PREFIXES) is taken away; a VAE and text encoders beside it are left
    out. Raises UserError, beginning with `source`, where two keys are the same parameter or one cannot be split.
    """
    found = layout_of(weights)
    if found is None:
        return None
    prefix, layout = found
    names = {key: key.removeprefix(prefix) for key in weights if not key.startswith(_NOT_TRANSFORMER)}
    return layout(renamed(weights, names, source), source)


def layout_of(keys: Iterable[str]) -> tuple[str, Layout] | None:
    """What stands before the transformer's keys, and the map of their layout; None if it is no known one."""
    keys = list(keys)
    for prefix in PREFIXES:
        for pattern, layout in LAYOUTS:
            if any(re.match(re.escape(prefix) + pattern, key) for key in keys):
                return prefix, layout
    return None


def _chunks(value: mx.array, parts: int, key: str, source: str) -> list[mx.array]:
    """A parameter split along its rows."""
    if not value.ndim or value.shape[0] % parts or not value.size:
        expected = f"rows in {parts} equal parts"
        raise UserError(f"{source}: {key}", got=f"the shape {tuple(value.shape)}", expected=expected)
    return list(mx.split(value, parts))


def _torch_shapes(weights: Weights) -> Weights:
    """PyTorch's (out, in, rows, columns) convolution and (1, positions, hidden) table in MLX's shapes."""
    convolution, table = "x_embedder.proj.weight", "x_pos_embedder.pos_embed.weight"
    if convolution in weights and weights[convolution].ndim == 4:
        weights[convolution] = weights[convolution].transpose(0, 2, 3, 1)
    if table in weights and weights[table].ndim == 3:
        weights[table] = weights[table][0]
    return weights
