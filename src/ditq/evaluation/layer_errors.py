"""How far quantized layers and blocks are from the float ones, on pictures that calibration did not use.

One measure for all weight methods, and the objective of none of them: each method has an error of its own that it
minimises, and those cannot be compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.calibration import ImageSet, replay_inputs
from ditq.capture import swapped, traced
from ditq.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import quantized_layers
from ditq.models.base import Network
from ditq.models.state import BlockState, Flow

Sample = tuple[int, int]
"""Picture and step."""
Sums = tuple[float, float]
"""Of squared differences, and of squares."""


@dataclass(frozen=True)
class Errors:
    """Relative errors |difference| / |float|, Euclidean norms over all samples and tokens."""

    layers: dict[str, float]
    """Of each layer's output for the float model's input."""
    blocks: list[float]
    """Of what leads to the prediction behind each block, all blocks up to there quantized: `measured`."""

    @property
    def layer(self) -> float:
        """The mean over the layers."""
        return float(np.mean(list(self.layers.values())))

    @property
    def block(self) -> float:
        """The mean over the blocks."""
        return float(np.mean(self.blocks))


def errors_of(
    network: Network, checkpoint: QuantizedCheckpoint, images: ImageSet, samples: Sequence[Sample]
) -> Errors:
    """The errors of a checkpoint's weights in the float model's `network`; activations stay as they are."""
    layers = quantized_layers(network, checkpoint, activations=False)
    flow = network.flow
    of_layers: dict[str, Sums] = {}
    of_blocks: dict[int, Sums] = {}
    for image, step in samples:
        with traced(network, list(layers), _comparing(network, layers, of_layers)):
            float_states = _block_outputs(network, flow, images, image, step)
        with swapped(network, layers):
            quantized_states = _block_outputs(network, flow, images, image, step)
        for block, (ours, reference) in enumerate(zip(quantized_states, float_states, strict=True)):
            for name in reference:
                add(of_blocks, block, ours[name], reference[name])
    return Errors(
        {path: relative(sums) for path, sums in of_layers.items()},
        [relative(of_blocks[block]) for block in sorted(of_blocks)],
    )


def measured(flow: Flow, block: int) -> tuple[str, ...]:
    """The arrays behind a block that its error is taken of: those that become the prediction (in SD3 the image stream).

    For a block that writes none of these, all that it writes and something later reads.
    """
    return tuple(name for name in flow.writes[block] if name in flow.results) or flow.read_later(block)


def spread_samples(images: ImageSet, pictures: Sequence[int], steps: int) -> list[Sample]:
    """Each picture at `steps` steps, evenly spread from the first on, step by step within a picture."""
    at = np.unique(np.linspace(0, len(images.sigmas) - 1, steps).round().astype(int)).tolist()
    return [(picture, step) for picture in pictures for step in at]


def _comparing(
    network: Network, layers: Mapping[str, nn.Module], sums: dict[str, Sums]
) -> Callable[[str, mx.array], None]:
    """An observer for `traced` that compares the layer's output with the quantized one's for the same input."""
    modules = network.anatomy.modules(network)

    def observe(path: str, x: mx.array) -> None:
        add(sums, path, layers[path](x), modules[path](x))

    return observe


def _block_outputs(network: Network, flow: Flow, images: ImageSet, image: int, step: int) -> list[BlockState]:
    """What is `measured` behind every block of one pass through the whole network."""
    latents, inputs = replay_inputs(network, images, [image], step)
    state, *states = network.boundaries(latents, **inputs)
    prediction = network.finish(states[-1] if states else state, *latents.shape[1:3])
    outputs = [{name: behind[name] for name in measured(flow, block)} for block, behind in enumerate(states)]
    mx.eval(prediction, outputs)
    return outputs


def add(sums: dict, key: str | int, value: mx.array, reference: mx.array) -> None:
    """Adds the squared differences and the squares of the reference to the pair `sums[key]`; evaluates both."""
    reference = reference.astype(mx.float32)
    pair = mx.stack([mx.square(value.astype(mx.float32) - reference).sum(), mx.square(reference).sum()])
    wrong, size = np.array(pair).tolist()
    before = sums.get(key, (0.0, 0.0))
    sums[key] = before[0] + wrong, before[1] + size


def relative(sums: Sums) -> float:
    """|difference| / |reference| of a pair; |difference| itself where the reference is zero."""
    wrong, size = sums
    return float(np.sqrt(wrong / size)) if size > 0 else float(np.sqrt(wrong))
