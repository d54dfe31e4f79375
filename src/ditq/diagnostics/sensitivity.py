"""What a small error in the input of a layer does to the guided prediction, by one pass backwards with random signs.

With u of independent random signs, one for each value of the prediction, and g the gradient of u' v in a layer's input,
E g^2 is the sum of the squared derivatives of all values of v (Hutchinson's estimator of a matrix's diagonal). Errors
of mean zero that do not know of each other, of variance e_j^2 in channel j, therefore change the prediction by
sum_j e_j^2 E sum g_j^2, to first order. One pass gives this for every layer and channel.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from jaxtyping import Float32

from ditq.calibration import ImageSet, replay_inputs
from ditq.capture import swapped, traced
from ditq.core.errors import DitqError
from ditq.diagnostics.channels import PerChannel
from ditq.models.base import Network
from ditq.models.state import BlockState, run_block


def squared_gradients(
    network: Network,
    images: ImageSet,
    chosen: Sequence[int],
    step: int,
    layers: Mapping[str, str],
    seed: int,
) -> dict[str, PerChannel]:
    """The mean square that a unit of squared error in each channel of an input adds to the guided prediction.

    By observed input, the mean over the chosen pictures; an error of a channel is one of each of its tokens or pixels,
    in both guidance rows. `layers` says which input was observed for each layer. Works backwards block by block, so
    that one block's activations are held at a time. Raises DitqError where gradients are not finite.
    """
    latents, inputs = replay_inputs(network, images, chosen, step)
    states, shapes = _forward(network, latents, inputs, layers)
    signs = np.random.default_rng(seed).choice(
        np.array([-1, 1], np.float32), (len(chosen), *latents.shape[1:])
    )
    gradients = _behind_the_blocks(network, images, states[-1], signs)
    squares: dict[str, PerChannel] = {}
    for number in reversed(range(len(network.blocks))):
        gradients, of_inputs = _through_block(network, number, states[number], gradients, layers, shapes)
        for source, gradient in of_inputs.items():
            total = mx.square(gradient.astype(mx.float32)).reshape(-1, gradient.shape[-1]).sum(axis=0)
            squares[source] = np.array(total, np.float64) / signs.size
        mx.eval(gradients)
        del states[number]
    for source, found in squares.items():
        if not np.isfinite(found).all():
            raise DitqError(f"{source} at step {step}: gradients are not finite; use --dtype float32")
    return squares


def _behind_the_blocks(
    network: Network, images: ImageSet, state: BlockState, signs: Float32[np.ndarray, "images *latent"]
) -> BlockState:
    """The gradients behind the last block, from signs for each value of the guided prediction."""
    weight = float(images.manifest["cfg_weight"])
    rows = np.concatenate([weight * signs, (1 - weight) * signs] if images.guided else [signs])
    height, width = signs.shape[1:3]
    return _backward(
        lambda found: {"prediction": network.finish(found, height, width)},
        state,
        network.flow.results,
        {"prediction": mx.array(rows).astype(network.dtype)},
    )


def _through_block(
    network: Network,
    number: int,
    state: BlockState,
    gradients: BlockState,
    layers: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[BlockState, dict[str, mx.array]]:
    """The gradients in front of a block from those behind it, and those of its layers' observed inputs."""
    block: Any = network.blocks[number]
    path = network.anatomy.blocks[number]
    own = {layer: source for layer, source in layers.items() if network.anatomy.site(layer).block == path}
    zeros = {source: mx.zeros(shapes[source], network.dtype) for source in dict.fromkeys(own.values())}
    added: dict[str, mx.array] = {}

    def through(found: BlockState) -> BlockState:
        added.update({source: found[source] for source in zeros})
        after = run_block(block, found)
        return {name: after[name] for name in block.writes if name in gradients}

    carried, modules = network.flow.inputs(number), network.anatomy.modules(network)
    with swapped(network, {layer: Shifted(modules[layer], source, added) for layer, source in own.items()}):
        found = _backward(through, {**state, **zeros}, (*carried, *zeros), gradients)
    before = {name: array for name, array in gradients.items() if name not in block.writes}
    for name in carried:
        before[name] = before[name] + found[name] if name in before else found[name]
    return before, {source: found[source] for source in zeros}


class Shifted(nn.Module):
    """A layer whose input has `added[source]` added to it: zeros, through which gradients are asked for."""

    def __init__(self, layer: nn.Module, source: str, added: Mapping[str, mx.array]):
        super().__init__()
        self._layer, self._source, self._added = layer, source, added

    def __call__(self, x: mx.array) -> mx.array:
        """What the layer returns for the sum."""
        return self._layer(x + self._added[self._source])


def _forward(
    network: Network, latents: mx.array, inputs: dict[str, mx.array], layers: Mapping[str, str]
) -> tuple[list[BlockState], dict[str, tuple[int, ...]]]:
    """The states at all boundaries, evaluated, and the shape of every observed input."""
    shapes: dict[str, tuple[int, ...]] = {}
    observed = list(dict.fromkeys(layers.values()))
    with traced(network, observed, lambda path, x: shapes.update({path: x.shape})):
        states = []
        for state in network.boundaries(latents, **inputs):
            mx.eval(state)
            states.append(state)
    return states, shapes


def _backward(
    function: Any, state: BlockState, wanted: Sequence[str], cotangents: Mapping[str, mx.array]
) -> dict[str, mx.array]:
    """The gradients in the `wanted` arrays of a state, from those in what `function` makes of it."""

    def of_arrays(*arrays: mx.array) -> list[mx.array]:
        made = function({**state, **dict(zip(wanted, arrays, strict=True))})
        return [made[name].astype(cotangents[name].dtype) for name in names]

    names = list(function(state))
    _, found = mx.vjp(of_arrays, [state[name] for name in wanted], [cotangents[name] for name in names])
    return dict(zip(wanted, found, strict=True))
