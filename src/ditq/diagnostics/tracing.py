"""Watching what layers receive, without touching their classes or their results."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq.capture import linears, swapped

Observe = Callable[[str, Float[mx.array, "*rows channels"]], None]


class Recorder(nn.Module):
    """Stands in the place of a layer: shows its input to `observe`, then calls it."""

    def __init__(self, path: str, layer: nn.Module, observe: Observe):
        super().__init__()
        self.path, self.layer, self.observe = path, layer, observe

    def __call__(self, x: Float[mx.array, "*rows channels"]) -> Float[mx.array, "*rows out"]:
        """What the layer makes of x."""
        self.observe(self.path, x)
        return self.layer(x)


@contextmanager
def traced(model: nn.Module, paths: Sequence[str], observe: Observe) -> Iterator[nn.Module]:
    """`model` whose linear layers at `paths` show each input to `observe(path, x)` first; on leaving they stop.

    What `observe` evaluates at once can be freed before the next layer runs, so that one layer's activations are held
    at a time. Run the model as it is inside: a step that was compiled before does not pass through the recorders.
    """
    layers = linears(model)
    with swapped(model, {path: Recorder(path, layers[path], observe) for path in paths}):
        yield model
