"""The text encoder modules, built from their configs and filled with their weights."""

from types import SimpleNamespace
from typing import Any

import mlx.core as mx

from ditq.models.diffusionkit.encoder_configs import CLIPConfig, clip_config, t5_config
from ditq.models.diffusionkit.hub import Files
from ditq.models.floats import is_float
from ditq.models.foreign import rewritten
from ditq.models.loading import Weights, load_weights_into, read_weights

_CLIP = (
    (r"^text_model\.", ""),
    (r"^(embeddings|encoder)\.", ""),
    (r"\.self_attn\.out_proj\.", ".attention.out_proj."),
    (r"\.self_attn\.q_proj\.", ".attention.query_proj."),
    (r"\.self_attn\.k_proj\.", ".attention.key_proj."),
    (r"\.self_attn\.v_proj\.", ".attention.value_proj."),
    (r"\.mlp\.fc([12])\.", r".linear\1."),
)

_T5 = (
    (r"^(shared|encoder\.embed_tokens)\.", "wte."),
    (r"^encoder\.block\.0\..*\.relative_attention_bias\.", "encoder.relative_attention_bias.embeddings."),
    (r"^encoder\.final_layer_norm\.", "encoder.ln."),
    (r"^encoder\.block\.", "encoder.layers."),
    (r"\.layer\.0\.layer_norm\.", ".ln1."),
    (r"\.layer\.1\.layer_norm\.", ".ln2."),
    (r"\.layer\.0\.SelfAttention\.q\.", ".attention.query_proj."),
    (r"\.layer\.0\.SelfAttention\.k\.", ".attention.key_proj."),
    (r"\.layer\.0\.SelfAttention\.v\.", ".attention.value_proj."),
    (r"\.layer\.0\.SelfAttention\.o\.", ".attention.out_proj."),
    (r"\.layer\.1\.DenseReluDense\.", ".dense."),
)


def clip_encoder(files: Files, which: str) -> Any:
    """DiffusionKit's CLIP text model "l" or "g", with its weights in float32."""
    path, config = files.text(f"clip_{which}"), clip_config(files.text(f"clip_{which}_config"))
    return clip_module(clip_weights(read_weights(path)), config, str(path))


def clip_module(weights: Weights, config: CLIPConfig, source: str) -> Any:
    """DiffusionKit's CLIP text model of this shape with these weights, under its paths, in float32."""
    from ditq.models.diffusionkit.corrections import DK

    projection = weights.get("text_projection.weight")
    encoder = DK.clip.CLIPTextModel(
        DK.config.CLIPTextModelConfig(
            num_layers=config["num_hidden_layers"],
            model_dims=config["hidden_size"],
            num_heads=config["num_attention_heads"],
            max_length=config["max_position_embeddings"],
            vocab_size=config["vocab_size"],
            projection_dim=None if projection is None else projection.shape[0],
            hidden_act=config["hidden_act"],
        )
    )
    load_weights_into(encoder, weights, source, mx.float32)
    return encoder


def t5_encoder(files: Files) -> Any:
    """DiffusionKit's T5 encoder, corrected, with its weights as stored and its norms in float32.

    Float32 norms make all activations float32, without which T5 overflows, at the memory of 16-bit weights.
    """
    from ditq.models.diffusionkit.corrections import CorrectedT5

    path, config = files.text("t5"), t5_config(files.text("t5_config"))
    defaults = {"relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6}
    encoder = CorrectedT5(SimpleNamespace(**{**defaults, **config}))
    load_weights_into(encoder, t5_weights(read_weights(path)), str(path))
    return encoder


def clip_weights(weights: Weights) -> Weights:
    """The weights of `transformers`' CLIPTextModel, with its projection or without, under DiffusionKit's paths."""
    mapped = {rewritten(key, _CLIP): value for key, value in weights.items()}
    for other in ("position_ids", "logit_scale"):  # a counter, and what only compares texts with pictures
        mapped.pop(other, None)
    return mapped


def t5_weights(weights: Weights) -> Weights:
    """The encoder's weights of `transformers`' T5 under DiffusionKit's paths, norms and embeddings in float32."""
    mapped = {
        rewritten(key, _T5): value
        for key, value in weights.items()
        if not key.startswith(("decoder.", "lm_head.", "spiece_model"))
    }
    exact = ("ln.weight", "ln1.weight", "ln2.weight", "wte.weight", "embeddings.weight")
    return {
        key: value.astype(mx.float32) if key.endswith(exact) and is_float(value) else value
        for key, value in mapped.items()
    }
