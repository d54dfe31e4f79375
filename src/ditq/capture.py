"""The one way into a model: its quantizable layers by path, watched, and modules put in their place.

Quantizable are linear layers and convolutions. A weight method sees both as a matrix: a convolution's kernel
(out, rows, columns, in) unfolds to (out, rows * columns * in), and its input to one row of patches per output pixel, so
that layer(x) = patches(x) @ matrix.T + bias. Groups along the matrix's columns are groups along input channels.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.core.errors import DitqError

M = TypeVar("M", bound=nn.Module)
Layer = nn.Linear | nn.Conv2d
Observe = Callable[[str, mx.array], None]
"""Receives a layer's path and its input."""


def layers(model: nn.Module) -> dict[str, Layer]:
    """Every linear layer and convolution by its path as MLX prints it, block 2 before block 10."""
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, Layer)]
    return dict(sorted(found, key=lambda entry: natural(entry[0])))


def natural(path: str) -> list[tuple[bool, int | str]]:
    """The sorting key of a path that puts block 2 before block 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in path.split(".")]


def matrix(layer: Layer) -> Float[mx.array, "out columns"]:
    """The layer's weight as a matrix, in its dtype: a convolution's kernel unfolded."""
    return layer.weight.reshape(layer.weight.shape[0], -1)


def channels(layer: Layer) -> int:
    """Input channels: what a row of the input has."""
    return layer.weight.shape[-1]


def patches(layer: Layer, x: Float[mx.array, "*rows channels"]) -> Float[mx.array, "*positions columns"]:
    """What the layer's matrix multiplies: x itself, or for a convolution the padded patch of every output pixel.

    Values are copied, never summed, so that they are exact in any dtype.
    """
    if not isinstance(layer, nn.Conv2d):
        return x
    refuse_unusual(layer)
    _, kernel_rows, kernel_columns, _ = layer.weight.shape
    (up, left), (down, across) = layer.padding, layer.stride
    padded = mx.pad(x, [(0, 0), (up, up), (left, left), (0, 0)])
    rows = (padded.shape[1] - kernel_rows) // down + 1
    columns = (padded.shape[2] - kernel_columns) // across + 1
    parts = [
        padded[:, i : i + down * rows : down, j : j + across * columns : across]
        for i in range(kernel_rows)
        for j in range(kernel_columns)
    ]
    return mx.concatenate(parts, axis=-1)


def apply(
    layer: Layer,
    weight: Float[mx.array, "out columns"],
    bias: Float[mx.array, "*some out"] | None,
    x: Float[mx.array, "*rows channels"],
) -> Float[mx.array, "*positions out"]:
    """What the layer would return for x with this matrix and bias (one, or one for each row) in place of its own."""
    if not isinstance(layer, nn.Conv2d):
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)
    refuse_unusual(layer)
    y = mx.conv2d(x, weight.reshape(layer.weight.shape), layer.stride, layer.padding)
    return y if bias is None else y + bias


def with_weight(layer: Layer, weight: Float[mx.array, "out columns"]) -> Layer:
    """A float layer like this one, with this matrix and the layer's own bias."""
    made = copy.copy(layer)
    made.weight = weight.reshape(layer.weight.shape)
    return made


def with_bias(layer: Layer, bias: Float[mx.array, "out"]) -> Layer:
    """A float layer like this one, with this bias in the dtype of its weight."""
    made = copy.copy(layer)
    made.bias = bias.astype(layer.weight.dtype)
    return made


@contextmanager
def traced(model: nn.Module, paths: Sequence[str], observe: Observe) -> Iterator[nn.Module]:
    """`model` whose layers at `paths` show each input to `observe(path, x)` first; on leaving they stop.

    What `observe` evaluates at once can be freed before the next layer runs, so that one layer's activations are held
    at a time. Run the model as it is inside: a step that was compiled before does not pass through the recorders.
    """
    found = layers(model)
    with swapped(model, {path: Recorder(path, found[path], observe) for path in paths}):
        yield model


class Recorder(nn.Module):
    """Stands in the place of a layer: shows its input to `observe`, then calls it."""

    def __init__(self, path: str, layer: nn.Module, observe: Observe):
        super().__init__()
        self.path, self.layer, self.observe = path, layer, observe

    def __call__(self, x: Float[mx.array, "*rows channels"]) -> Float[mx.array, "*positions out"]:
        """What the layer makes of x."""
        self.observe(self.path, x)
        return self.layer(x)


@contextmanager
def swapped(model: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """`model` with the modules at these paths replaced; what was there comes back, whatever happens inside.

    Raises DitqError, before anything is replaced, for a path that is not in the model. A compiled function that was
    traced before does not see the replacements.
    """
    before = {path: module_at(model, path) for path in modules}
    try:
        replace(model, modules)
        yield model
    finally:
        replace(model, before)


def replace(model: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Puts each module in the place of the one at its path, for good.

    Raises DitqError, before anything is replaced, for a path that is not in the model.
    """
    places = {path: _place(model, path) for path in modules}
    for path, module in modules.items():
        _set(*places[path], module)


def sharing(model: M) -> M:
    """A module that shares the parameters of `model` but not its places: replacing layers of one leaves the other."""
    made = copy.copy(model)
    for name, child in model.items():
        if isinstance(child, nn.Module):
            made[name] = sharing(child)
        elif isinstance(child, list):
            made[name] = [sharing(part) if isinstance(part, nn.Module) else part for part in child]
    return made


def refuse_unusual(layer: nn.Conv2d) -> None:
    """Raises DitqError for a convolution with dilation or channel groups, which no family here has."""
    dilation, groups = getattr(layer, "dilation", 1), getattr(layer, "groups", 1)
    if dilation not in (1, (1, 1)) or groups != 1:
        raise DitqError(
            f"a convolution with dilation {dilation} and {groups} channel groups cannot be quantized"
        )


def module_at(model: nn.Module, path: str) -> Any:
    """The module of the model at `path`. Raises DitqError where there is none."""
    return _get(*_place(model, path))


def _place(model: nn.Module, path: str) -> tuple[Any, str]:
    """The container of the module at `path`, and its name or index there."""
    *parents, name = path.split(".")
    container: Any = model
    for part in [*parents, name]:
        owner = container
        container = _get(owner, part) if _has(owner, part) else None
        if container is None:
            raise DitqError(f"{path}: no such module in {type(model).__name__}")
    return owner, name


def _has(container: Any, name: str) -> bool:
    return name.isdigit() and int(name) < len(container) if isinstance(container, list) else name in container


def _get(container: Any, name: str) -> Any:
    return container[int(name)] if isinstance(container, list) else container[name]


def _set(container: Any, name: str, module: nn.Module) -> None:
    container[int(name) if isinstance(container, list) else name] = module
