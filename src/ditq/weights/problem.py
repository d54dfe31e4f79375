"""What a weight method is given, one block at a time, and what it gives back."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Float, Float32, Int64

from ditq import capture
from ditq.core.activation_grid import ActivationGrid, TimestepGrid
from ditq.core.cost import Cost
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.models.anatomy import Anatomy
from ditq.models.state import SomeRows, Stream, row_batches, rows_at_once
from ditq.weights.columns.hessian import Moments
from ditq.weights.cost import Work

NO_BITS = 16
"""Activations of this many bits are left as they are."""
InputsUsed = Literal["none", "float", "quantized", "both"]
"""The inputs that a method decides codes by: none, those of the float model, of the quantized model, or both."""
BlockModule = Any
"""An `nn.Module` that is a `ditq.models.state.Block`."""
OnIteration = Callable[[int, float], None]
"""Receives the number of the finished iteration and its loss."""


def silent(iteration: int, loss: float) -> None:
    """No-op callback."""


@dataclass(frozen=True)
class BlockProblem:
    """One float block, what it receives in the float and in the quantized model, and what it should return.

    Rows are calibration samples: one picture at one timestep, with its prompt or with the negative one. Only the layers
    named in `specs` are quantized. A convolution is quantized as its unfolded matrix (`ditq.capture.matrix`).
    """

    block: BlockModule
    path: str
    """The block's module path; paths of its layers begin with it."""
    anatomy: Anatomy
    inputs: Mapping[str, Stream]
    """All arrays that the block reads, in the float model: carried ones, and given ones such as its modulation."""
    quantized_inputs: Mapping[str, Stream]
    """The same in the quantized model, where all blocks and embedders before it are quantized."""
    targets: Mapping[str, Stream]
    """Of what the float block returns for `inputs`, the arrays that something behind it reads: these alone count in
    errors."""
    carried: tuple[str, ...]
    """The names of those `inputs` that came through earlier blocks, in the order in which the block reads them."""
    timesteps: Float32[np.ndarray, "rows"]
    specs: Mapping[str, Spec]
    activation_bits: int = 8
    """Bits of the layers' inputs where `table` is None; 16: they stay as they are."""
    table: Mapping[str, ActivationGrid] | None = None
    """Given grids of the layers' inputs, by layer path, in place of learned ones."""
    seed: int = 0
    pictures: Int64[np.ndarray, "rows"] | None = None
    """Which calibration picture each row is of, the first of those with its prompt; None: each of its own."""
    float_block: BlockModule | None = None
    """The block as `inputs` went through it, where another method has put layers of `block` on their grids before."""

    @property
    def rows(self) -> int:
        """Calibration samples."""
        return self.timesteps.shape[0]

    def batches(self, rows: SomeRows) -> Iterator[SomeRows]:
        """These rows, as many at a time as run through the block at once."""
        return row_batches(rows, rows_at_once({name: self.inputs[name] for name in self.carried}))

    def layer(self, path: str) -> capture.Layer:
        """The float layer at the full `path`."""
        return capture.layers(self.block)[self.inside(path)]

    def weight(self, path: str) -> Float[mx.array, "out columns"]:
        """The float32 matrix that goes on the grid: times the layer's smoothing factors, if there are any."""
        weight = capture.matrix(self.layer(path)).astype(mx.float32)
        smooth = self.smooth(path)
        if smooth is None:
            return weight
        # a convolution's matrix has the input channels once for each place of its kernel
        return (weight.reshape(len(weight), -1, smooth.size) * smooth).reshape(weight.shape)

    def bias(self, path: str) -> Float[mx.array, "out"] | None:
        """The float32 bias of the layer, or None."""
        layer = self.layer(path)
        return layer.bias.astype(mx.float32) if "bias" in layer else None

    def smooth(self, path: str) -> Float[mx.array, "channels"] | None:
        """The layer's SmoothQuant factors, one per input channel, or None."""
        grid = self.table.get(path) if self.table is not None else None
        return None if grid is None else grid.smooth

    def input(self, path: str) -> str:
        """The name of what the layer receives: the same for layers that share their input."""
        return self.anatomy.site(path).input

    def inside(self, path: str) -> str:
        """The path from the block on."""
        return path.removeprefix(f"{self.path}.")


@dataclass(frozen=True)
class BlockResult:
    """The quantized layers of a block, by full path."""

    weights: dict[str, QuantizedWeight]
    activations: dict[str, TimestepGrid] | None = None
    """Each layer's static input grid, of one row; layers that share their input share it. None: none was made."""
    report: dict[str, Any] = field(default_factory=dict)
    """What JSON can hold: errors, and how the method fared."""


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are its hyper-parameters."""

    streams: ClassVar[InputsUsed]
    """Whose inputs it decides the codes by."""
    by_layer: ClassVar[bool]
    """Whether it solves a layer alone, outside any block: then it is a `LayerSolver`."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        ...

    def cost(self, work: Work) -> Cost:
        """What it takes to quantize such a block."""
        ...


@runtime_checkable
class LayerSolver(Method, Protocol):
    """A method whose `by_layer` is true."""

    def solve(
        self, weight: Float32[np.ndarray, "out columns"], moments: Moments | None, spec: Spec, path: str
    ) -> tuple[QuantizedWeight, dict[str, Any]]:
        """One layer's matrix on its grid, and a report as JSON.

        `moments` are those of its input, finished, gathered from the streams that the method looks at and made with
        this matrix under the name `path` where it looks at both; None for a method that looks at none.
        """
        ...


def block_specs(block: BlockModule, path: str, anatomy: Anatomy, spec: Spec) -> dict[str, Spec]:
    """`spec` for every quantizable layer that runs within the block at `path`.

    Raises UserError when a layer's input channels do not divide into groups (`Site.check_groups`), and DitqError for a
    layer that the anatomy does not know.
    """
    found = {f"{path}.{name}": layer for name, layer in capture.layers(block).items()}
    for name in found:
        anatomy.site(name)
    paths = anatomy.paths(phase="block", block=path)
    for name in paths:
        anatomy.site(name).check_groups(spec, capture.channels(found[name]))
    return dict.fromkeys(paths, spec)
