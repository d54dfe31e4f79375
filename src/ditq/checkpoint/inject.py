"""A quantized checkpoint into a live model: ours, or a stock DiffusionKit one with the same paths."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.activations import ActivationTable
from ditq.capture import linears, replace, swapped
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight
from ditq.diagnostics.names import within_block
from ditq.nn import ActivationGrid, Backend, QuantizedLinear, StepClock, WeightOnlyLinear

_SHOWN = 5


def inject(
    mmdit: nn.Module,
    checkpoint: QuantizedCheckpoint,
    activations: bool = True,
    backend: Backend | None = None,
) -> None:
    """Puts the checkpoint's layers in the place of the model's, for good; see `quantized_layers`."""
    replace(mmdit, quantized_layers(mmdit, checkpoint, activations, backend))


@contextmanager
def injected(
    mmdit: nn.Module,
    checkpoint: QuantizedCheckpoint,
    activations: bool = True,
    backend: Backend | None = None,
) -> Iterator[nn.Module]:
    """`mmdit` with the checkpoint's layers in it; its own come back afterwards. See `quantized_layers`."""
    with swapped(mmdit, quantized_layers(mmdit, checkpoint, activations, backend)) as model:
        yield model


def quantized_layers(
    mmdit: nn.Module,
    checkpoint: QuantizedCheckpoint,
    activations: bool = True,
    backend: Backend | None = None,
) -> dict[str, nn.Module]:
    """The modules that replace the model's linear layers, by path; biases are the model's own.

    With `activations` they compute on integer codes of both, by one clock; those outside attentions and MLPs (adaLN,
    embedders), whose inputs have no grids, compute as without. Without, activations stay as they are: on a
    GPU, or with the backend "packed", MLX's packed words; otherwise plain linear layers of the dequantized weights,
    which a CPU multiplies fastest.

    Raises UserError, naming the layer, for what does not fit `mmdit` or is not finite, and for smoothing of the inputs
    that differs from the weights'. Grids of layers whose weights are not quantized are left out.
    """
    modules = linears(mmdit)
    check_fits(modules, checkpoint.weights)
    make = LayerMaker(checkpoint.model, checkpoint.activations, activations, backend)
    return {path: make(path, weight, modules[path]) for path, weight in checkpoint.weights.items()}


class LayerMaker:
    """Makes the quantized layers of one model, one after the other; with activations they share one clock."""

    def __init__(self, model: str, table: ActivationTable | None, activations: bool, backend: Backend | None):
        """Raises UserError when activations are asked for and there are no grids."""
        if activations and table is None:
            raise UserError(
                f"a checkpoint of {model}",
                got="no activation grids",
                remedy="give a quant_config, or use the weights only (V1)",
            )
        self._table = table if activations else None
        self._clock = None if self._table is None else StepClock(self._table.timesteps)
        self._backend: Backend | None = backend

    def __call__(self, path: str, weight: QuantizedWeight, linear: nn.Linear) -> nn.Module:
        """The layer in the place of `linear`, whose bias it takes. Raises UserError for a grid that does not fit."""
        if self._table is None or self._clock is None:
            return _weight_only(weight, linear, self._backend, path)
        grid = self._table.grids.get(path)
        if grid is None and not within_block(path):
            return _weight_only(weight, linear, self._backend, path)
        if grid is None:
            raise UserError(
                path,
                got="a quantized weight without an activation grid",
                remedy="collect this layer's statistics too",
            )
        check_grid(path, grid, weight)
        parts = weight.codes, weight.scale, weight.zero, weight.spec
        return QuantizedLinear(*parts, linear.get("bias"), grid, self._clock, self._backend)


def check_fits(modules: Mapping[str, nn.Linear], weights: Mapping[str, QuantizedWeight]) -> None:
    """Raises UserError, naming the layers, unless each weight is whole and has a linear layer of its shape."""
    absent = [path for path in weights if path not in modules]
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise UserError(
            ", ".join(absent[:_SHOWN]) + more,
            got="no such linear layer in the model (or a quantized one already)",
            expected=f"a checkpoint of this model, which has {len(modules)} linear layers",
        )
    for path, weight in weights.items():
        there = tuple(modules[path].weight.shape)
        if weight.shape != there:
            raise UserError(
                path,
                got=f"a weight of shape {weight.shape}",
                expected=f"{there}, as in the model; is it another one?",
            )
        weight.check(path)


def check_grid(path: str, grid: ActivationGrid, weight: QuantizedWeight) -> None:
    """Raises UserError, naming the layer, unless the grid is whole, finite, and smoothed as the weight is."""
    _check_smoothing(path, grid.smooth, weight.smooth)
    scale = np.array(grid.scale)
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise UserError(
            f"{path}: activation scale", got=f"{scale.min()} at least", expected="finite steps above 0"
        )
    if grid.shift is not None:
        if not np.isfinite(np.array(grid.shift)).all():
            raise UserError(f"{path}: activation shift", got="values that are not finite", expected="numbers")
        if grid.shift.shape[1] not in (1, weight.shape[1]):
            raise UserError(
                f"{path}: activation shift",
                got=f"{grid.shift.shape[1]} channels",
                expected=f"1 or {weight.shape[1]}",
            )


def _check_smoothing(path: str, of_input: mx.array | None, of_weight: mx.array | None) -> None:
    """The input is divided by what the weight was multiplied with, or the layer computes something else."""
    if of_input is None and of_weight is None:
        return
    if of_input is None or of_weight is None:
        smoothed = "weight" if of_input is None else "activation grid"
        got = f"smoothing factors of the {smoothed} alone"
    elif of_input.shape == of_weight.shape and mx.allclose(of_input, of_weight, rtol=1e-5, atol=0.0).item():
        return
    else:
        got = "other smoothing factors of the activation grid than of the weight"
    raise UserError(
        path,
        got=got,
        expected="the same of both",
        remedy="quantize the weights with this quant_config (adaround_optimize --quant-config), "
        "or make one without factors (analyze_activations --smooth none)",
    )


def _weight_only(weight: QuantizedWeight, linear: nn.Linear, backend: Backend | None, path: str) -> nn.Module:
    bias = linear.get("bias")
    if backend == "packed" or (backend is None and mx.default_device().type == mx.DeviceType.gpu):
        return WeightOnlyLinear(weight, bias, path)
    rows, columns = weight.shape
    plain = nn.Linear(columns, rows, bias is not None)
    plain.weight = weight.effective().astype(linear.weight.dtype)
    if bias is not None:
        plain.bias = bias
    return plain
