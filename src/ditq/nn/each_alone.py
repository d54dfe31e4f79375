"""Float layers whose result for a picture does not depend on the pictures beside it.

The sums of a float matrix product are rounded in another order for another number of rows: a change in the last digit.
Where integer codes are made of the result, some fall on the other side of a step, and after some steps the picture is
another one than in another batch. Sums of whole numbers are exact, so that quantized layers need no such care.
"""

import copy
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from jaxtyping import Float

from ditq import capture


def each_alone(
    compute: Callable[[mx.array], mx.array], x: Float[mx.array, "*batch channels"], axis: int = 0
) -> Float[mx.array, "*results"]:
    """compute(x), one entry of an axis after the other; rows alone (2 axes) are computed together."""
    if x.ndim < 3 or x.shape[axis] == 1:
        return compute(x)
    return mx.concatenate([compute(one) for one in mx.split(x, x.shape[axis], axis)], axis)


class LinearEachAlone(nn.Linear):
    """A float linear layer that multiplies each picture's rows in a product of their own."""

    axis = 0
    """That of the pictures in its input."""

    def __call__(self, x: Float[mx.array, "*rows in"]) -> Float[mx.array, "*rows out"]:
        """The layer's output."""
        return each_alone(super().__call__, x, self.axis)


class Conv2dEachAlone(nn.Conv2d):
    """A float convolution that runs over each picture in a call of its own."""

    def __call__(
        self, x: Float[mx.array, "batch height width channels"]
    ) -> Float[mx.array, "batch rows columns out"]:
        """The layer's output."""
        return each_alone(super().__call__, x)


def alone(layer: capture.Layer, axis: int = 0) -> capture.Layer:
    """The layer with the same parameters, which are shared, computing each picture alone.

    `axis` is that of the pictures in its input; of a convolution always the first.
    """
    made = copy.copy(layer)
    if isinstance(layer, nn.Conv2d):
        object.__setattr__(made, "__class__", Conv2dEachAlone)
    else:
        object.__setattr__(made, "__class__", LinearEachAlone)
        made.axis = axis
    return made
