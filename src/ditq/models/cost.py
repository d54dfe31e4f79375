"""What a network costs, told before its weights are loaded: parameters, shapes, operations, and this device's speed."""

import time

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from ditq import capture
from ditq.models.base import Conditioning, Geometry, Network, TextToImage


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


def sampling_seconds(
    model: TextToImage, pictures: int, steps: int, guided: bool, height: int, width: int
) -> float:
    """A rough time for the denoising of `pictures` with latents (height, width): operations over measured speed.

    Small models take longer than that, since they are bound by overhead and not by arithmetic.
    """
    rows = 2 if guided else 1
    flops = model.skeleton().step_flops(rows, height, width, model.geometry.text_tokens)
    return pictures * steps * flops / matmul_rate()


def matmul_rate(side: int = 1024, repeats: int = 3) -> float:
    """Floating-point operations per second of a matrix product on the default device, the best of a few."""
    dtype = mx.float16 if mx.default_device() == mx.gpu else mx.float32
    a = mx.ones((side, side), dtype=dtype)
    seconds = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        mx.eval(a @ a)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)
