"""What a network costs, told before its weights are loaded: parameters and shapes."""

from math import prod

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ditq import capture
from ditq.models.base import Conditioning, Geometry, Network


def parameter_count(network: nn.Module) -> int:
    """Parameters of a network; lazy ones are never made."""
    return sum(array.size for array in dict(tree_flatten(network.parameters())).values())


def blank_conditioning(geometry: Geometry, rows: int) -> Conditioning:
    """Conditioning of the model's shapes, of zeros that are never made."""
    pooled = None if geometry.pooled_dim is None else mx.zeros((rows, geometry.pooled_dim))
    mask = mx.ones((rows, geometry.text_tokens)) if geometry.masked else None
    return Conditioning(mx.zeros((rows, geometry.text_tokens, geometry.text_dim)), pooled, mask)


def state_shapes(
    network: Network, geometry: Geometry, height: int, width: int
) -> list[dict[str, tuple[int, ...]]]:
    """What is new at every boundary for latents (height, width), by name: the shape of one row."""
    inputs = network.prepare(blank_conditioning(geometry, 1), mx.array([500.0]))
    latents = mx.zeros((1, height, width, geometry.latent_channels))
    states = network.boundaries(latents, **inputs.at(0))
    flow = network.flow
    return [{name: state[name].shape[1:] for name in flow.written(at)} for at, state in enumerate(states)]


def layer_inputs(network: Network, geometry: Geometry, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """The shape of every quantizable layer's input for one row of latents (height, width); nothing is computed."""
    seen: dict[str, tuple[int, ...]] = {}
    paths = list(network.anatomy.modules(network))
    with capture.traced(network, paths, lambda path, x: seen.update({path: x.shape})):
        inputs = network.prepare(blank_conditioning(geometry, 1), mx.array([500.0]))
        network(mx.zeros((1, height, width, geometry.latent_channels)), **inputs.at(0))
    return seen


def block_shares(network: Network, geometry: Geometry, height: int, width: int) -> dict[str, float]:
    """Each block's part of the operations of a pass, by path, as far as its layers' matrices tell."""
    layers, shapes = network.anatomy.modules(network), layer_inputs(network, geometry, height, width)
    found = dict.fromkeys(network.anatomy.blocks, 0.0)
    total = 0.0
    for path, layer in layers.items():
        if path not in shapes:
            continue
        rows = prod(capture.patches(layer, mx.zeros(shapes[path])).shape[:-1])
        own, block = rows * layer.weight.size, network.anatomy.site(path).block
        total += own
        if block in found and network.anatomy.site(path).phase == "block":
            found[block] += own
    return {block: own / total for block, own in found.items()}
