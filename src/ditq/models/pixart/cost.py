"""Operations of a PixArt transformer."""

from ditq.models.pixart.config import PixArtConfig


def step_flops(config: PixArtConfig, rows: int, image_tokens: int, text_tokens: int) -> float:
    """Floating-point operations of one call with `rows` rows: two per weight of the blocks and token that it
    multiplies, and the attentions."""
    hidden = config.hidden_size
    on_image = 2 * (4 + 2 + 2 * config.mlp_ratio) * hidden**2 * image_tokens
    on_text = 2 * 2 * hidden**2 * text_tokens
    attentions = 4 * hidden * image_tokens * (image_tokens + text_tokens)
    return float(rows * config.depth * (on_image + on_text + attentions))
