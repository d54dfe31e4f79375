"""The way through the U: its blocks in the order of execution, and which array goes from which to which, as data.

Down the levels, each block's output is needed twice: by the next block, and by a ResNet on the way up. Such an output
is an array with a name of its own, `skip.0` (the embedded latents) to `skip.11`; all others are called `image`, and
are gone when the next block has read them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal

from ditq.models.unet.config import UNetConfig

Kind = Literal["resnet", "transformer", "downsample", "upsample"]
IMAGE, TEXT = "image", "text"


@dataclass(frozen=True)
class Step:
    """One block of the walk."""

    path: str
    """The module's; the names are those of `diffusers`."""
    kind: Kind
    level: int
    """The resolution at which it works (a down- or upsampler: from which it comes), 0 the finest."""
    image: int
    """Channels of the features that it receives."""
    out: int
    """Channels that it returns."""
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    skip: int = 0
    """Channels of the skip connection that a ResNet on the way up receives beside the features."""


def skip(number: int) -> str:
    """The name of a skip connection in a state."""
    return f"skip.{number}"


def time(number: int) -> str:
    """The name of what a ResNet is told of the timestep in a state."""
    return f"time.{number}"


@cache
def walk(config: UNetConfig) -> tuple[Step, ...]:
    """The blocks of a UNet of this shape in the order of execution."""
    way = _Walk(config)
    for level in range(config.levels):
        way.down(level)
    way.middle()
    for level in reversed(range(config.levels)):
        way.up(level)
    return tuple(way.steps)


class _Walk:
    """A walk so far: its steps, the array that the next one reads, and the skip connections that wait."""

    def __init__(self, config: UNetConfig):
        self.config, self.steps = config, list[Step]()
        self.now, self.channels = skip(0), config.block_out_channels[0]
        self.waiting = [(skip(0), self.channels)]
        self.resnets = self.skips = 0

    def down(self, level: int) -> None:
        """ResNets and transformers of a level, then half the resolution."""
        block, attends = f"down_blocks.{level}", level in self.config.attention_levels
        for number in range(self.config.layers_per_block):
            self._resnet(f"{block}.resnets.{number}", level, kept=not attends)
            if attends:
                self._transformer(f"{block}.attentions.{number}", level, kept=True)
        if level < self.config.levels - 1:
            path = f"{block}.downsamplers.0"
            self._step(path, "downsample", level, self.channels, (self.now,), kept=True)

    def middle(self) -> None:
        """A transformer between two ResNets at the coarsest level."""
        level = self.config.levels - 1
        self._resnet("mid_block.resnets.0", level)
        self._transformer("mid_block.attentions.0", level)
        self._resnet("mid_block.resnets.1", level)

    def up(self, level: int) -> None:
        """ResNets, each joined by the skip connection that waits for the shortest time, and twice the resolution."""
        block = f"up_blocks.{self.config.levels - 1 - level}"
        for number in range(self.config.layers_per_block + 1):
            self._resnet(f"{block}.resnets.{number}", level, joined=self.waiting.pop())
            if level in self.config.attention_levels:
                self._transformer(f"{block}.attentions.{number}", level)
        if level:
            self._step(f"{block}.upsamplers.0", "upsample", level, self.channels, (self.now,))

    def _resnet(
        self, path: str, level: int, joined: tuple[str, int] | None = None, kept: bool = False
    ) -> None:
        out, name = self.config.block_out_channels[level], time(self.resnets)
        reads = (self.now, name) if joined is None else (self.now, joined[0], name)
        self._step(path, "resnet", level, out, reads, kept, skip=joined[1] if joined else 0)
        self.resnets += 1

    def _transformer(self, path: str, level: int, kept: bool = False) -> None:
        self._step(path, "transformer", level, self.channels, (self.now, TEXT), kept)

    def _step(
        self,
        path: str,
        kind: Kind,
        level: int,
        out: int,
        reads: tuple[str, ...],
        kept: bool = False,
        skip: int = 0,
    ) -> None:
        """A step that returns `out` channels; `kept` where a block on the way up will read them too."""
        name = IMAGE
        if kept:
            self.skips += 1
            name = f"skip.{self.skips}"
            self.waiting.append((name, out))
        self.steps.append(Step(path, kind, level, self.channels, out, reads, (name,), skip))
        self.now, self.channels = name, out
