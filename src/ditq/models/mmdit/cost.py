"""Operations of an MMDiT."""

from ditq.models.mmdit.config import MMDiTConfig


def step_flops(config: MMDiTConfig, rows: int, image_tokens: int, text_tokens: int) -> float:
    """Floating-point operations of one call with `rows` rows: two per weight and token, and the attentions."""
    hidden, blocks = config.hidden_size, config.depth_multimodal
    tokens = image_tokens + text_tokens
    per_token = 2 * (4 + 2 * config.mlp_ratio) * hidden**2
    second = len(config.dual_attention_blocks) * (
        2 * 4 * hidden**2 * image_tokens + 4 * hidden * image_tokens**2
    )
    return rows * (blocks * (per_token * tokens + 4 * hidden * tokens**2) + second)
