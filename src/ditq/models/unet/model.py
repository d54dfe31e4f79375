"""The UNet of Stable Diffusion 1 (Rombach et al. 2022, arXiv 2112.10752).

Features go down through levels of falling resolution and up again; what each block leaves on the way down joins a
ResNet on the way up. ResNets are told the timestep, transformers read the text. What ResNets are told depends on the
timestep alone, so it is computed once for a whole run, by `UNet.prepare`, and the denoise step receives it as one row.

`unet.walk` says which blocks there are and what passes between them. Parameter paths are those of `diffusers`, but for
the MLPs, whose layers are called fc1 and fc2 as in every family.
"""

from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.capture import module_at
from ditq.models.anatomy import Anatomy
from ditq.models.base import Conditioning, Network, RunInputs
from ditq.models.functional import timestep_embedding
from ditq.models.state import BlockState
from ditq.models.unet.anatomy import unet_anatomy
from ditq.models.unet.config import UNetConfig
from ditq.models.unet.cost import step_flops
from ditq.models.unet.layers import (
    Block,
    Downsample,
    JoinedResNet,
    Pixels,
    ResNet,
    TextTokens,
    TimeEmbedding,
    Transformer,
    Upsample,
)
from ditq.models.unet.walk import IMAGE, TEXT, Step, skip, walk


class UNet(Network):
    """Predicts the noise of noisy latents, given text tokens and what the ResNets are told of the timestep."""

    family = "unet"
    given_by = ("tokens",)
    begun = (skip(0),)
    results = (IMAGE,)

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        first = config.block_out_channels[0]
        self.time_embedding = TimeEmbedding(config)
        self.conv_in = nn.Conv2d(config.in_channels, first, 3, padding=1)
        self.down_blocks = [Level() for _ in range(config.levels)]
        self.mid_block = Level()
        self.up_blocks = [Level() for _ in range(config.levels)]
        for step in walk(config):
            *owner, group, _ = step.path.split(".")
            level: Any = self.mid_block if len(owner) == 1 else self[owner[0]][int(owner[1])]
            level.setdefault(group, []).append(_block(step, config))
        self.conv_norm_out = nn.GroupNorm(config.norm_groups, first, config.norm_eps, pytorch_compatible=True)
        self.conv_out = nn.Conv2d(first, config.out_channels, 3, padding=1)

    @property
    def anatomy(self) -> Anatomy:
        """What each of its layers is."""
        return unet_anatomy(self.config)

    @property
    def dtype(self) -> mx.Dtype:
        """The dtype that it computes in: that of the last norm, which is never quantized."""
        return self.conv_norm_out.weight.dtype

    @property
    def blocks(self) -> list[Block]:
        """The blocks in the order of execution."""
        return [module_at(self, step.path) for step in walk(self.config)]

    @property
    def resnets(self) -> list[ResNet]:
        """Those of the blocks that are told the timestep."""
        return [block for block in self.blocks if isinstance(block, ResNet)]

    def prepare(self, conditioning: Conditioning, timesteps: Float[mx.array, "steps"]) -> RunInputs:
        """Text tokens, and what every ResNet is told for all (step, prompt) pairs of a run side by side.

        `timesteps` are those of training, 0 to 999.
        """
        told = mx.concatenate(list(self._told(timesteps).values()), axis=-1)[:, None]
        told = mx.broadcast_to(told, (len(timesteps), len(conditioning), told.shape[-1]))
        return RunInputs({TEXT: conditioning.tokens.astype(self.dtype)}, {"time": told})

    def given(
        self, timesteps: Float[mx.array, "rows"], tokens: Float[mx.array, "rows text_tokens text_dim"]
    ) -> BlockState:
        """The text, and what every ResNet is told, row by row."""
        return {TEXT: tokens.astype(self.dtype), **self._told(timesteps)}

    def begin(self, latents: Pixels, text: TextTokens, time: Float[mx.array, "batch told"]) -> BlockState:
        """The embedded latents, the text, and each ResNet's part of the step's `time` under a name of its own."""
        resnets = [step for step in walk(self.config) if step.kind == "resnet"]
        ends = list(accumulate(step.out for step in resnets[:-1]))
        parts = zip(resnets, mx.split(time, ends, axis=-1), strict=True)
        told = {step.reads[-1]: part for step, part in parts}
        return {skip(0): self.conv_in(latents.astype(self.dtype)), TEXT: text, **told}

    def finish(self, state: Mapping[str, mx.array], height: int, width: int) -> Pixels:
        """The noise from the features behind the last block."""
        return self.conv_out(nn.silu(self.conv_norm_out(state[IMAGE])))

    def step_flops(self, rows: int, height: int, width: int, text_tokens: int) -> float:
        """Floating-point operations of one call with `rows` rows of latents (height, width)."""
        return step_flops(self.config, rows, height, width, text_tokens)

    def _told(self, timesteps: Float[mx.array, "*steps"]) -> dict[str, mx.array]:
        """What each ResNet adds to its pixels at these timesteps, by name."""
        dims = self.config.block_out_channels[0]
        frequencies = timestep_embedding(timesteps, dims, self.config.max_period).astype(self.dtype)
        embedded = nn.silu(self.time_embedding(frequencies))
        return {resnet.time_name: resnet.time_emb_proj(embedded) for resnet in self.resnets}


class Level(nn.Module):
    """The blocks at one resolution: `resnets`, `attentions`, `downsamplers`, `upsamplers`, where it has them."""


def _block(step: Step, config: UNetConfig) -> Block:
    """The module of a step."""
    if step.kind == "resnet":
        return JoinedResNet(step, config) if step.skip else ResNet(step, config)
    kinds = {"transformer": Transformer, "downsample": Downsample, "upsample": Upsample}
    return kinds[step.kind](step, config)
