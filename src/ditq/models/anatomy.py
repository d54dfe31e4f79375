"""What every quantizable layer of a model is, as data: the only place that knows an architecture from outside.

Each family states its `Anatomy` once, in its own room. Whoever asks which layers share an input, in which order they
run, which stream they belong to, what they are called in figures or what can be folded into what, asks it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import mlx.nn as nn

from ditq import capture
from ditq.core.errors import DitqError, UserError
from ditq.core.spec import GROUP_SIZES, Spec

Phase = Literal["prepare", "begin", "block", "finish"]
"""When a layer runs: once a run, from prompt and timestep alone; before the blocks; in a block; after the blocks."""
Rows = Literal["tokens", "prompt_tokens", "prompts", "steps", "pairs"]
"""What a row of a layer's input is: a token or pixel of a sample; a token of a prompt, the same at every timestep; a
prompt; a timestep; a pair of these two."""
Role = Literal[
    "embedder",  # of latents, text, timestep or pooled prompt
    "modulation",  # makes shifts, scales and gates
    "attention_in",  # queries, keys, values
    "attention_out",
    "mlp_in",
    "mlp_out",  # receives what the activation function returns: 'post-GELU'
    "convolution",
    "projection",  # any other layer in a block
    "head",  # makes the prediction
]


@dataclass(frozen=True)
class Fold:
    """A layer that can take in factors of another layer's input: the modulation in front of it.

    The input is LN(x) (1 + scale) + shift, and both are chunks, as wide as the input, of the output of `layer`.
    Dividing the input by s is another `layer`: its shift and scale rows over s, the scale's bias (1 + b) / s - 1.
    """

    layer: str
    shift: int
    """The number of the output chunk that holds the shift."""
    scale: int


@dataclass(frozen=True)
class Site:
    """One layer's place in its model."""

    path: str
    """As MLX prints it."""
    role: Role
    input: str = ""
    """What it receives, by the path of the first layer that receives it; its own path where it alone does."""
    stage: int = 0
    """Place in the order of execution within its phase and block; layers of one stage do not see each other."""
    block: str | None = None
    """Path of the block that it belongs to."""
    phase: Phase = "block"
    stream: str | None = None
    """The array between blocks that its input is made from: "image", "text"; what figures group by."""
    rows: Rows = "tokens"
    label: str = ""
    """A short name for figures; the path where there is none."""
    fold: Fold | None = None
    """Where factors of its input can go; None: nowhere, they are divided at run time."""
    quantizable: bool = True
    joins: int | None = None
    """Channels of the first of two arrays that its input is concatenated of: no group of its weight holds channels of
    both, whose ranges differ (Q-Diffusion, arXiv 2302.04304). None: its input is one array."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", self.input or self.path)
        object.__setattr__(self, "label", self.label or self.path)

    @property
    def post_gelu(self) -> bool:
        """Whether it receives the activation function's output: bounded below, wide above."""
        return self.role == "mlp_out"

    def check_groups(self, spec: Spec, channels: int, where: str = "") -> None:
        """Raises UserError, beginning with `where` and the path, unless groups of the weight divide its `channels`.

        Where two arrays are joined in the input, they divide the channels of the first one as well.
        """
        name = f"{where}: {self.path}" if where else self.path
        spec.groups(channels, name)
        if self.joins is not None and spec.group_size is not None and self.joins % spec.group_size:
            fitting = [str(size) for size in GROUP_SIZES if self.joins % size == 0 == channels % size]
            raise UserError(
                f"{name}: {self.joins} of {channels} in_features, in front of a skip connection, are not divisible",
                got=f"group size {spec.group_size}",
                expected="no group with channels of both, whose ranges differ",
                remedy=f"use {' or '.join(fitting)}" if fitting else "quantize it per channel",
            )


@dataclass(frozen=True)
class Anatomy:
    """All layers of a model, and its blocks in the order of execution."""

    family: str
    blocks: tuple[str, ...]
    """Paths of the blocks."""
    layers: Sequence[Site] = field(repr=False)
    streams: dict[str, str] = field(default_factory=dict)
    """Each stream's name and its abbreviation in labels."""

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The sites by path, block 2 before block 10."""
        return {site.path: site for site in sorted(self.layers, key=lambda site: capture.natural(site.path))}

    def site(self, path: str) -> Site:
        """The site of a layer. Raises DitqError for a layer that the anatomy does not know."""
        if path not in self.sites:
            raise DitqError(f"{path}: not a layer that the anatomy of {self.family} knows")
        return self.sites[path]

    def modules(self, network: nn.Module) -> dict[str, capture.Layer]:
        """The quantizable layers that `network` has, by path.

        Raises DitqError that names each linear layer or convolution of `network` that the anatomy does not know: it
        would never be calibrated.
        """
        found = capture.layers(network)
        unknown = [path for path in found if path not in self.sites]
        if unknown:
            raise DitqError(f"{', '.join(unknown[:5])}: not in the anatomy of {self.family}; state it there")
        return {path: layer for path, layer in found.items() if self.sites[path].quantizable}

    def paths(self, phase: Phase | None = None, block: str | None = None) -> list[str]:
        """The quantizable layers of a phase, of a block, or both."""
        return [
            path
            for path, site in self.sites.items()
            if site.quantizable and phase in (None, site.phase) and block in (None, site.block)
        ]

    def stages(self, paths: Iterable[str]) -> list[list[str]]:
        """Layers of one phase and block in the order of execution, those that do not see each other together."""
        found: dict[int, list[str]] = {}
        for path in paths:
            found.setdefault(self.site(path).stage, []).append(path)
        return [found[stage] for stage in sorted(found)]

    def shared_inputs(self, paths: Iterable[str]) -> list[list[str]]:
        """The layers grouped by the input that they share."""
        found: dict[str, list[str]] = {}
        for path in paths:
            found.setdefault(self.site(path).input, []).append(path)
        return list(found.values())

    def sharing(self, path: str) -> list[str]:
        """All layers that receive what this one does, itself among them."""
        own = self.site(path).input
        return [other for other, site in self.sites.items() if site.input == own]

    def first_blocks(self, count: int) -> tuple[str, ...]:
        """The paths of the first `count` blocks. Raises UserError unless there are that many."""
        if not 1 <= count <= len(self.blocks):
            expected = f"from 1 to {len(self.blocks)}, the model's blocks"
            raise UserError("--blocks", got=count, expected=expected)
        return self.blocks[:count]
