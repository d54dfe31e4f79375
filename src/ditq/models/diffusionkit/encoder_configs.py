"""The config.json of a text encoder, as `transformers` writes it, checked: its numbers decide the shapes of weights."""

from pathlib import Path
from typing import Annotated, Literal, TypedDict

from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.core.schema import checked, within

Size = Annotated[int, within(1, 1_000_000)]
Layers = Annotated[int, within(1, 512)]


class CLIPConfig(TypedDict):
    """What is read of CLIP's."""

    num_hidden_layers: Layers
    hidden_size: Size
    num_attention_heads: Layers
    max_position_embeddings: Size
    vocab_size: Size
    hidden_act: Literal["quick_gelu", "gelu"]


class _T5Needed(TypedDict):
    d_model: Size
    d_kv: Size
    d_ff: Size
    num_heads: Layers
    num_layers: Layers
    vocab_size: Size
    relative_attention_num_buckets: Size
    feed_forward_proj: Literal[
        "gated-gelu", "gated-gelu_new", "gated-silu", "gated-relu", "gelu", "relu", "silu"
    ]


class T5Config(_T5Needed, total=False):
    """What is read of T5's; older ones leave the last two at T5's defaults."""

    relative_attention_max_distance: Size
    layer_norm_epsilon: Annotated[float, within(1e-12, 1)]


def clip_config(path: Path) -> CLIPConfig:
    """CLIP's config. Raises UserError that names the file and the field."""
    config = checked(read_json(path), CLIPConfig, str(path))
    if config["hidden_size"] % config["num_attention_heads"]:
        expected = f"a divisor of hidden_size {config['hidden_size']}"
        raise UserError(f"{path}: num_attention_heads", got=config["num_attention_heads"], expected=expected)
    return config


def t5_config(path: Path) -> T5Config:
    """T5's config. Raises UserError that names the file and the field."""
    return checked(read_json(path), T5Config, str(path))
