"""The interface that every text-to-image model offers, and that of the network which predicts its noise."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, UInt8

from ditq.models.anatomy import Anatomy
from ditq.models.state import Block, BlockState, Flow, run_block

Prediction = Literal["velocity", "epsilon"]
"""What a network predicts: noise minus data, or the noise."""


@dataclass(frozen=True)
class Conditioning:
    """What the text encoders say of the prompts: one row per prompt. A model has what it needs of it."""

    tokens: Float[mx.array, "prompts text_tokens text_dim"]
    pooled: Float[mx.array, "prompts pooled_dim"] | None = None
    mask: Float[mx.array, "prompts text_tokens"] | None = None
    """1 where a token counts, 0 where it pads."""

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def arrays(self) -> dict[str, mx.array]:
        """Those that there are, by name."""
        every = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: array for name, array in every.items() if array is not None}

    def rows(self, indices: list[int]) -> "Conditioning":
        """The conditioning of the prompts at `indices`, repeated where they repeat."""
        at = mx.array(indices)
        return Conditioning(**{name: array[at] for name, array in self.arrays.items()})

    def __getitem__(self, rows: slice) -> "Conditioning":
        """The conditioning of a slice of the prompts."""
        return Conditioning(**{name: array[rows] for name, array in self.arrays.items()})

    def beside(self, other: "Conditioning") -> "Conditioning":
        """Rows [own, other's]; a single other row is repeated for each own one."""
        rows = len(self)
        repeated = {name: mx.broadcast_to(x, (rows, *x.shape[1:])) for name, x in other.arrays.items()}
        return Conditioning(**{name: mx.concatenate([x, repeated[name]]) for name, x in self.arrays.items()})


@dataclass(frozen=True)
class RunInputs:
    """What a network is given beside the latents, for all steps of a run: its keyword arguments."""

    constant: dict[str, mx.array]
    """The same at every step: text tokens, masks. A row per prompt."""
    by_step: dict[str, mx.array] = field(default_factory=dict)
    """(steps, prompts, ...): modulation, time embeddings."""

    def at(self, step: int) -> dict[str, mx.array]:
        """The arguments of one step."""
        return {**self.constant, **{name: array[step] for name, array in self.by_step.items()}}

    def pairs(self) -> dict[str, mx.array]:
        """The arguments of all (prompt, step) pairs as rows: the first prompt at every step, then the second."""
        steps = next(iter(self.by_step.values())).shape[0]
        constant = {name: mx.repeat(array, steps, axis=0) for name, array in self.constant.items()}
        paired = {name: array.swapaxes(0, 1).flatten(0, 1) for name, array in self.by_step.items()}
        return {**constant, **paired}


class Network(nn.Module, ABC):
    """A denoising network of blocks: the base class of every family.

    A family has a `config` (a frozen dataclass), its `anatomy`, and the four parts of a pass: `prepare`, `begin`, the
    blocks, `finish`.
    """

    family: ClassVar[str]
    """The name in `ditq.models.FAMILIES` and in a checkpoint's config.json."""
    given_by: ClassVar[tuple[str, ...]]
    """The fields of a Conditioning that `given` needs; the others enter by `begin` alone."""
    begun: ClassVar[tuple[str, ...]]
    """The arrays that `begin` makes and blocks carry on."""
    results: ClassVar[tuple[str, ...]]
    """The carried arrays that `finish` reads."""
    config: Any

    @property
    @abstractmethod
    def anatomy(self) -> Anatomy:
        """What each of its layers is."""
        ...

    @property
    @abstractmethod
    def dtype(self) -> mx.Dtype:
        """The dtype that it computes in."""
        ...

    @property
    @abstractmethod
    def blocks(self) -> list[Any]:
        """Its blocks in the order of execution, those of `anatomy.blocks`."""
        ...

    @abstractmethod
    def prepare(self, conditioning: Conditioning, timesteps: Float[mx.array, "steps"]) -> RunInputs:
        """Everything that depends on prompts and timesteps alone, for all steps of a run."""
        ...

    @abstractmethod
    def given(self, timesteps: Float[mx.array, "rows"], **conditioning: mx.array) -> BlockState:
        """What the blocks and `finish` read and nothing carries, row by row: prompt i at timestep i.

        `conditioning` are the fields `given_by` of a Conditioning. Arrays are lazy: what nobody reads costs nothing.
        """
        ...

    @abstractmethod
    def begin(
        self, latents: Float[mx.array, "batch height width channels"], **inputs: mx.array
    ) -> BlockState:
        """The state before the first block: what is carried, and what is given, from one step's `RunInputs.at`."""
        ...

    @abstractmethod
    def finish(
        self, state: Mapping[str, mx.array], height: int, width: int
    ) -> Float[mx.array, "batch height width channels"]:
        """The prediction for latents (height, width) from the state behind the last block."""
        ...

    def boundaries(
        self, latents: Float[mx.array, "batch height width channels"], **inputs: mx.array
    ) -> Iterator[BlockState]:
        """The state before each block, then the one behind the last; nothing is evaluated.

        What the caller evaluates at once can be freed before the next block runs.
        """
        state = self.begin(latents, **inputs)
        yield state
        for block in self.blocks:
            state = run_block(block, state)
            yield state

    def __call__(
        self, latents: Float[mx.array, "batch height width channels"], **inputs: mx.array
    ) -> Float[mx.array, "batch height width channels"]:
        """The prediction at one step."""
        state = self.begin(latents, **inputs)
        for block in self.blocks:
            state = run_block(block, state)
        return self.finish(state, *latents.shape[1:3])

    @abstractmethod
    def step_flops(self, rows: int, height: int, width: int, text_tokens: int) -> float:
        """Floating-point operations of one call with `rows` rows of latents (height, width)."""
        ...

    @property
    def flow(self) -> Flow:
        """Which of its blocks reads and writes what."""
        blocks: list[Block] = self.blocks
        return Flow.of(blocks, self.begun, self.results)


@dataclass(frozen=True)
class Defaults:
    """How a model is sampled when the user does not say."""

    size: int
    """Side of the square picture, in pixels."""
    steps: int
    guidance: float
    shift: float
    schedule: str
    """A name among those of its noise process, `ditq.sampling.schedules`."""
    sampler: str = "euler"
    """A name of `ditq.sampling.steppers.STEPPERS`."""


@dataclass(frozen=True)
class Geometry:
    """The shapes around a network."""

    latent_channels: int
    factor: int
    """Pixels per latent cell along one side."""
    unit: int
    """Latent cells that a picture's sides are multiples of: the patch of a transformer, the stride of a UNet."""
    largest: int
    """Latent cells that a side has at most."""
    text_tokens: int
    """Text tokens per prompt."""
    text_dim: int
    pooled_dim: int | None = None
    """None: the model has no pooled text."""
    masked: bool = False
    """Whether its text tokens come with a mask."""


@runtime_checkable
class TextToImage(Protocol):
    """A text-to-image model whose parts are loaded when first used, so that they never all lie in memory at once."""

    name: str
    defaults: Defaults
    geometry: Geometry
    prediction: Prediction
    noise: str
    """Its noise process, a name of `ditq.sampling.schedules.PROCESSES`."""
    dtype: mx.Dtype
    """The dtype that its network computes in."""

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts; the text encoders are loaded for this call and freed after it."""
        ...

    def network(self) -> Network:
        """The denoising network, loaded on the first call and kept."""
        ...

    def skeleton(self) -> Network:
        """A network of the same shapes with lazy random weights: for shapes and forecasts; nothing is allocated."""
        ...

    def decode(
        self, latents: Float[mx.array, "batch height width channels"]
    ) -> UInt8[np.ndarray, "batch rows columns 3"]:
        """The pictures of final latents; `rows` and `columns` are `factor` times the latents' height and width."""
        ...
