"""What a weight method is given, one block at a time, and what it gives back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float, Float32

from ditq.activations import ActivationTable
from ditq.calibration.block_cache import Streams
from ditq.capture import linears
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec
from ditq.models.mmdit.model import MultiModalTransformerBlock

NO_BITS = 16
"""Activations of this many bits are left as they are."""

OnIteration = Callable[[int, float], None]
"""Told the number of the finished iteration and its loss."""


def silent(iteration: int, loss: float) -> None:
    """Tells nobody."""


@dataclass(frozen=True)
class BlockProblem:
    """One float block, what it receives in the float and in the quantized model, and what it should return.

    Rows are calibration samples: one picture at one timestep. Only the linear layers named in `specs` are quantized.
    """

    block: MultiModalTransformerBlock
    path: str
    """The block's module path; paths of its layers begin with it."""
    modulation: Float[mx.array, "rows modulation"]
    inputs: Streams
    """What the block receives in the float model."""
    quantized_inputs: Streams
    """What it receives when all blocks before it are quantized."""
    targets: Streams
    """What the float block returns for `inputs`."""
    timesteps: Float32[np.ndarray, "rows"]
    specs: Mapping[str, Spec]
    activation_bits: int = 8
    """Bits of the layers' inputs where `table` is None; 16: they stay as they are."""
    table: ActivationTable | None = None
    """Given grids of the layers' inputs, per timestep, in place of learned ones."""
    seed: int = 0
    float_block: MultiModalTransformerBlock | None = None
    """The block as `inputs` went through it, where another method has put layers of `block` on their grids before."""
    float_modulation: Float[mx.array, "rows modulation"] | None = None
    """What `inputs` were modulated with, where `modulation` is that of quantized adaLN layers."""

    @property
    def rows(self) -> int:
        """Calibration samples."""
        return self.timesteps.shape[0]

    def layer(self, path: str) -> nn.Linear:
        """The float layer at the full `path`."""
        return linears(self.block)[self.inside(path)]

    def weight(self, path: str) -> Float[mx.array, "out in"]:
        """The float32 weight that goes on the grid: times the layer's smoothing factors, if there are any."""
        weight = self.layer(path).weight.astype(mx.float32)
        smooth = self.smooth(path)
        return weight if smooth is None else weight * smooth

    def bias(self, path: str) -> Float[mx.array, "out"] | None:
        """The float32 bias of the layer, or None."""
        layer = self.layer(path)
        return layer.bias.astype(mx.float32) if "bias" in layer else None

    def smooth(self, path: str) -> Float[mx.array, "in"] | None:
        """The layer's SmoothQuant factors, or None."""
        grid = self.table.grids.get(path) if self.table is not None else None
        return None if grid is None else grid.smooth

    def inside(self, path: str) -> str:
        """The path from the block on."""
        return path.removeprefix(f"{self.path}.")


@dataclass(frozen=True)
class BlockResult:
    """The quantized layers of a block, by full path."""

    weights: dict[str, QuantizedWeight]
    activations: dict[str, tuple[float, float]] | None = None
    """Step and centre of each layer's static input grid; None: none was made."""
    report: dict[str, Any] = field(default_factory=dict)
    """What JSON can hold: errors, and how the method fared."""


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are its hyper-parameters."""

    def quantize(self, problem: BlockProblem, on_iteration: OnIteration = silent) -> BlockResult:
        """The block's layers on their grids."""
        ...


def block_specs(block: nn.Module, path: str, spec: Spec) -> dict[str, Spec]:
    """`spec` for every linear layer of a block that is quantized: all but the adaLN, which runs once per prompt.

    Raises UserError when a layer's columns do not divide into groups.
    """
    found = {
        f"{path}.{name}": layer for name, layer in linears(block).items() if "adaLN_modulation" not in name
    }
    for name, layer in found.items():
        spec.groups(layer.weight.shape[1], name)
    return dict.fromkeys(found, spec)
