"""A quantized checkpoint into a live model: ours, or a stock DiffusionKit one with the same paths."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

from ditq import capture
from ditq.activations import ActivationTable
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.core.activation_grid import ActivationGrid, TimestepGrid, Timesteps
from ditq.core.errors import UserError
from ditq.core.quantized import QuantizedWeight, fits_channels
from ditq.models import MODELS, load
from ditq.models.anatomy import Anatomy
from ditq.models.base import Network
from ditq.nn import (
    Backend,
    QuantizedConv2d,
    QuantizedLinear,
    StepClock,
    WeightOnlyConv2d,
    WeightOnlyLinear,
    alone,
    usual_backend,
)

_SHOWN = 5


def inject(
    network: nn.Module,
    checkpoint: QuantizedCheckpoint,
    activations: bool = True,
    backend: Backend | None = None,
    anatomy: Anatomy | None = None,
) -> None:
    """Puts the checkpoint's layers in the place of the network's, for good; see `quantized_layers`."""
    capture.replace(network, quantized_layers(network, checkpoint, activations, backend, anatomy))


@contextmanager
def injected(
    network: nn.Module,
    checkpoint: QuantizedCheckpoint,
    activations: bool = True,
    backend: Backend | None = None,
    anatomy: Anatomy | None = None,
) -> Iterator[nn.Module]:
    """`network` with the checkpoint's layers in it; its own come back afterwards. See `quantized_layers`."""
    layers = quantized_layers(network, checkpoint, activations, backend, anatomy)
    with capture.swapped(network, layers) as model:
        yield model


def quantized_layers(
    network: nn.Module,
    checkpoint: QuantizedCheckpoint,
    activations: bool = True,
    backend: Backend | None = None,
    anatomy: Anatomy | None = None,
) -> dict[str, nn.Module]:
    """The modules that replace the network's layers, by path; biases are the network's where a weight has none.

    With `activations` they compute on integer codes of both, by one clock; layers outside the blocks (embedders,
    modulation), whose inputs have no grids, compute as without. All layers that stay float are replaced then by ones
    that compute each picture alone, so that no picture depends on its batch. Without, activations stay as they are: on
    a GPU, or with the backend "packed", the weights are MLX's packed words; otherwise float layers of the dequantized
    weights, which a CPU multiplies fastest. `anatomy` is that of a module which has none of its own; see `anatomy_of`.

    Raises UserError, naming the layer, for what does not fit `network` or is senseless, for a checkpoint that was made
    from other weights than the network's, and for smoothing of the inputs that differs from the weights'. Grids of
    layers whose weights are not quantized are left out.
    """
    anatomy = anatomy or anatomy_of(network, checkpoint.model)
    modules = quantizable(network, anatomy)
    check_fits(modules, checkpoint.weights)
    if checkpoint.made_from is not None and isinstance(network, Network):
        checkpoint.made_from.check(network, "checkpoint", checkpoint.model)
    make = LayerMaker(checkpoint.model, checkpoint.activations, activations, backend, anatomy)
    made = {path: make(path, weight, modules[path]) for path, weight in checkpoint.weights.items()}
    return {**made, **make.others(network, made)}


def anatomy_of(network: nn.Module, model: str) -> Anatomy:
    """What the network's layers are: its own `anatomy`, or for a stock module that of the model with this name.

    Raises UserError when neither is known.
    """
    own = getattr(network, "anatomy", None)
    if isinstance(own, Anatomy):
        return own
    if model not in MODELS:
        raise UserError(
            f"{type(network).__name__}: anatomy",
            got=f"none of its own, and a checkpoint of {model}",
            expected=f"a checkpoint of {' or '.join(MODELS)}",
            remedy="give the anatomy of the network: inject(..., anatomy=)",
        )
    return load(model).skeleton().anatomy


def quantizable(network: nn.Module, anatomy: Anatomy) -> dict[str, capture.Layer]:
    """The layers of `network` that may be quantized, by path; a stock module may have more than the anatomy knows."""
    sites = anatomy.sites
    return {
        path: layer
        for path, layer in capture.layers(network).items()
        if path in sites and sites[path].quantizable
    }


class LayerMaker:
    """Makes the quantized layers of one model, one after the other; with activations they share one clock."""

    def __init__(
        self,
        model: str,
        table: ActivationTable | None,
        activations: bool,
        backend: Backend | None,
        anatomy: Anatomy,
    ):
        """Raises UserError when activations are asked for and there are no grids."""
        if activations and table is None:
            raise UserError(
                f"a checkpoint of {model}",
                got="no activation grids",
                remedy="give a quant_config, or use the weights only (V1)",
            )
        self._table = table if activations else None
        self._clock = StepClock()
        self._backend: Backend | None = backend
        self._anatomy = anatomy

    def __call__(self, path: str, weight: QuantizedWeight, layer: capture.Layer) -> nn.Module:
        """The layer in the place of `layer`, whose bias it takes where the weight has none of its own.

        Raises UserError for a grid that does not fit.
        """
        if weight.bias is not None:
            layer = capture.with_bias(layer, weight.bias)
        if self._table is None:
            return _weight_only(weight, layer, self._backend, path)
        grid = self._table.grids.get(path)
        if grid is None and self._anatomy.site(path).phase != "block":
            made = _weight_only(weight, layer, self._backend, path)
            return alone(made, self._pictures(path)) if isinstance(made, capture.Layer) else made
        if grid is None:
            raise UserError(
                path,
                got="a quantized weight without an activation grid",
                remedy="collect this layer's statistics too",
            )
        check_grid(path, grid, weight, self._table.timesteps, capture.channels(layer))
        if isinstance(layer, nn.Conv2d):
            return QuantizedConv2d(weight, layer, grid, self._clock, self._backend)
        return QuantizedLinear(weight, layer.get("bias"), grid, self._clock, self._backend)

    def others(self, network: nn.Module, made: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """What replaces the network's float layers beside those that were `made`: with activations each picture is
        computed alone, without them nothing is replaced."""
        if self._table is None:
            return {}
        layers = capture.layers(network).items()
        return {path: alone(layer, self._pictures(path)) for path, layer in layers if path not in made}

    def _pictures(self, path: str) -> int:
        """The axis of the pictures in a layer's input: what is prepared for all steps is (steps, prompts, ...)."""
        site = self._anatomy.sites.get(path)
        return int(
            site is not None and site.phase == "prepare" and site.rows not in ("tokens", "prompt_tokens")
        )


def check_fits(modules: Mapping[str, capture.Layer], weights: Mapping[str, QuantizedWeight]) -> None:
    """Raises UserError, naming the layers, unless each weight is whole and has a layer of its shape."""
    absent = [path for path in weights if path not in modules]
    if absent:
        more = f" and {len(absent) - _SHOWN} more" if len(absent) > _SHOWN else ""
        raise UserError(
            ", ".join(absent[:_SHOWN]) + more,
            got="no such layer in the model (or a quantized one already)",
            expected=f"a checkpoint of this model, which has {len(modules)} layers to quantize",
        )
    for path, weight in weights.items():
        there = capture.matrix(modules[path]).shape
        if weight.shape != there:
            raise UserError(
                path,
                got=f"a weight of shape {weight.shape}",
                expected=f"{there}, as in the model; is it another one?",
            )
        weight.check(path, capture.channels(modules[path]))


def check_grid(
    path: str,
    grid: ActivationGrid,
    weight: QuantizedWeight,
    timesteps: Timesteps,
    channels: int | None = None,
) -> None:
    """Raises UserError, naming the layer, unless the grid is whole, finite, and smoothed as the weight is.

    A grid that computes its rows is asked at `timesteps`. `channels` are the layer's input channels, if they are known.
    """
    _check_smoothing(path, grid.smooth, weight.smooth)
    rows = grid.rows if isinstance(grid, TimestepGrid) else grid.at(timesteps)
    rows.check(f"{path}: activation")
    if rows.shift is not None:
        columns, shifts = weight.shape[1], rows.shift.shape[1]
        if shifts != 1 and not fits_channels((shifts,), columns, channels):
            raise UserError(
                f"{path}: activation shift",
                got=f"{shifts} channels",
                expected=f"1 or {columns if channels is None else channels}",
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


def _weight_only(
    weight: QuantizedWeight, layer: capture.Layer, backend: Backend | None, path: str
) -> nn.Module:
    if (backend or usual_backend(weight)) == "packed":
        if isinstance(layer, nn.Conv2d):
            return WeightOnlyConv2d(weight, layer, path)
        return WeightOnlyLinear(weight, layer.get("bias"), path)
    return capture.with_weight(layer, weight.effective().astype(layer.weight.dtype))
