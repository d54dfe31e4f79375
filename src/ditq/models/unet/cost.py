"""Operations of a UNet."""

from ditq.models.unet.config import UNetConfig
from ditq.models.unet.walk import Step, walk


def step_flops(config: UNetConfig, rows: int, height: int, width: int, text_tokens: int) -> float:
    """Floating-point operations of one call with `rows` rows of latents (height, width): two per weight and pixel, and
    the attentions."""
    ends = 2 * 9 * config.block_out_channels[0] * (config.in_channels + config.out_channels) * height * width
    return rows * (ends + sum(_flops(config, step, height, width, text_tokens) for step in walk(config)))


def _flops(config: UNetConfig, step: Step, height: int, width: int, text_tokens: int) -> float:
    pixels = (height >> step.level) * (width >> step.level)
    if step.kind == "resnet":
        into = step.image + step.skip
        shortcut = into * step.out if into != step.out else 0
        return 2 * pixels * (9 * into * step.out + 9 * step.out**2 + shortcut)
    if step.kind == "transformer":
        hidden = step.out
        weights = (2 + 4 + 2 + 12) * hidden**2
        text = 2 * 2 * text_tokens * config.text_embed_dim * hidden
        return 2 * pixels * weights + text + 4 * pixels * (pixels + text_tokens) * hidden
    scale = 0.25 if step.kind == "downsample" else 4
    return 2 * 9 * step.image * step.out * pixels * scale
