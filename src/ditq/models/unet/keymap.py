"""Checkpoint layouts of Stable Diffusion 1's UNet, each mapped to the parameter paths of `UNet`.

Three layouts are in use: the original single files, `diffusers` folders, and our own. Each map takes a flat dictionary
and returns one; what it does not know it passes on under its own name, so that loading can name it as extra.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

import mlx.core as mx

from ditq.models.foreign import renamed, rewritten
from ditq.models.loading import Weights
from ditq.models.unet.config import UNetConfig
from ditq.models.unet.walk import Step, walk

PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "unet.", "model.")
"""What stands before the UNet's keys: in original and ComfyUI's files, pipelines and trainers' modules."""
_NOT_UNET = (
    "first_stage_model.",
    "cond_stage_model.",
    "text_encoder.",
    "vae.",
    "model_ema.",
    "safety_checker.",
)
"""What else single files and whole pipelines hold."""
_SCHEDULE = re.compile(
    r"(betas|alphas_cumprod(_prev)?|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|lvlb_weights|logvar"
    r"|model_ema\.\w+)"
)
"""Tables of the noise schedule, which original files hold beside the weights."""

_OUTSIDE = (
    (r"^input_blocks\.0\.0\.", "conv_in."),
    (r"^time_embed\.0\.", "time_embedding.linear_1."),
    (r"^time_embed\.2\.", "time_embedding.linear_2."),
    (r"^out\.0\.", "conv_norm_out."),
    (r"^out\.2\.", "conv_out."),
)
_RESNET = (
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".time_emb_proj."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".conv_shortcut."),
    (r"(downsamplers\.0)\.op\.", r"\1.conv."),
)
_MLP = ((r"\.ff\.net\.0\.proj\.", ".ff.fc1."), (r"\.ff\.net\.2\.", ".ff.fc2."))
Layout = Callable[[Mapping[str, mx.array], UNetConfig, str], Weights]


def original_blocks(config: UNetConfig) -> dict[str, str]:
    """Our path of each block by that of the original files, which count ResNets and downsamplers through all levels."""
    found: dict[str, str] = {}
    steps = walk(config)
    down = [step for step in steps if step.path.startswith("down_blocks.")]
    up = [step for step in steps if step.path.startswith("up_blocks.")]
    middle = [step for step in steps if step.path.startswith("mid_block.")]
    for name, part, first in (("input_blocks", down, 1), ("output_blocks", up, 0)):
        for number, group in enumerate(_counted(part), first):
            found |= {f"{name}.{number}.{place}": step.path for place, step in enumerate(group)}
    return found | {f"middle_block.{place}": step.path for place, step in enumerate(middle)}


def _counted(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """The blocks that the original files count as one: a ResNet with what follows it, a downsampler alone."""
    group: list[Step] = []
    for step in steps:
        if step.kind in ("resnet", "downsample") and group:
            yield group
            group = []
        group.append(step)
    yield group


def from_original(weights: Mapping[str, mx.array], config: UNetConfig, source: str = "checkpoint") -> Weights:
    """Paths of the original files, which CompVis and Runway published."""
    blocks = original_blocks(config)
    names = {}
    for key in weights:
        name = rewritten(key, _OUTSIDE)
        if at := re.match(r"((?:input|output)_blocks\.\d+\.\d+|middle_block\.\d+)\.", name):
            name = blocks.get(at[1], at[1]) + name[at.end(1) :]
        names[key] = rewritten(name, (*_RESNET, *_MLP))
    return _mlx_shapes(renamed(weights, names, source))


def from_diffusers(
    weights: Mapping[str, mx.array], config: UNetConfig, source: str = "checkpoint"
) -> Weights:
    """Paths of a `diffusers` UNet2DConditionModel: ours, but for the MLPs."""
    return _mlx_shapes(renamed(weights, {key: rewritten(key, _MLP) for key in weights}, source))


def from_ours(weights: Mapping[str, mx.array], config: UNetConfig, source: str = "checkpoint") -> Weights:
    """Our own paths and shapes: nothing to rename."""
    return dict(weights)


LAYOUTS: tuple[tuple[str, Layout], ...] = (
    (r"input_blocks\.\d+\.", from_original),
    (r"down_blocks\.\d+\.attentions\.\d+\.transformer_blocks\.\d+\.ff\.fc1\.", from_ours),
    (
        r"(down_blocks\.\d+\.(resnets|attentions)\.|mid_block\.attentions\.\d+\.transformer_blocks\.)",
        from_diffusers,
    ),
)
"""What a key of each layout begins with, and its map."""


def to_unet(
    weights: Mapping[str, mx.array], config: UNetConfig, source: str = "checkpoint"
) -> Weights | None:
    """`weights` under the parameter paths of `UNet`, their layout told by their keys; None if it is no known one.

    What stands before all keys of the UNet (PREFIXES) is taken away; a VAE, text encoders and the tables of a noise
    schedule beside it are left out. Raises UserError, beginning with `source`, where two keys are the same parameter.
    """
    found = layout_of(weights)
    if found is None:
        return None
    prefix, layout = found
    own = {key for key in weights if not key.startswith(_NOT_UNET) and not _SCHEDULE.fullmatch(key)}
    names = {key: key.removeprefix(prefix) for key in weights if key in own}
    return layout(renamed(weights, names, source), config, source)


def layout_of(keys: Iterable[str]) -> tuple[str, Layout] | None:
    """What stands before the UNet's keys, and the map of their layout; None if it is no known one."""
    keys = list(keys)
    for pattern, layout in LAYOUTS:
        for prefix in PREFIXES:
            if any(re.match(re.escape(prefix) + pattern, key) for key in keys):
                return prefix, layout
    return None


def _mlx_shapes(weights: Weights) -> Weights:
    """PyTorch's (out, in, rows, columns) of convolutions in MLX's order, (out, rows, columns, in)."""
    return {
        name: value.transpose(0, 2, 3, 1) if value.ndim == 4 else value for name, value in weights.items()
    }
