"""How far quantized layers and blocks are from the float ones, on pictures that calibration did not use.

One measure for all weight methods, none of which minimises exactly this: every method has errors of its own that it
looks at, and they cannot be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ditq.calibration import ImageSet, replay
from ditq.calibration.block_cache import Streams
from ditq.calibration.recording import recorded
from ditq.capture import linears, swapped
from ditq.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import quantized_layers
from ditq.diagnostics.tracing import traced
from ditq.models.mmdit import MMDiT

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
    """Of the image stream behind each block, all blocks up to there quantized."""

    @property
    def layer(self) -> float:
        """The mean over the layers."""
        return float(np.mean(list(self.layers.values())))

    @property
    def block(self) -> float:
        """The mean over the blocks."""
        return float(np.mean(self.blocks))


def errors_of(
    mmdit: MMDiT, checkpoint: QuantizedCheckpoint, images: ImageSet, samples: Sequence[Sample]
) -> Errors:
    """The errors of a checkpoint's weights in the float model `mmdit`; activations stay as they are."""
    layers = quantized_layers(mmdit, checkpoint, activations=False)
    of_layers: dict[str, Sums] = {}
    of_blocks: dict[int, Sums] = {}
    for image, step in samples:
        floats: dict[int, mx.array] = {}
        with traced(mmdit, list(layers), _comparing(mmdit, layers, of_layers)):
            _boundaries(mmdit, images, image, step, floats)
        there: dict[int, mx.array] = {}
        with swapped(mmdit, layers):
            _boundaries(mmdit, images, image, step, there)
        for boundary in sorted(floats)[1:]:
            _add(of_blocks, boundary - 1, there[boundary], floats[boundary])
    return Errors(
        {path: _relative(sums) for path, sums in of_layers.items()},
        [_relative(of_blocks[block]) for block in sorted(of_blocks)],
    )


def spread_samples(images: ImageSet, pictures: Sequence[int], steps: int) -> list[Sample]:
    """Each picture at `steps` steps, evenly spread from the first on, step by step within a picture."""
    at = np.unique(np.linspace(0, len(images.sigmas) - 1, steps).round().astype(int)).tolist()
    return [(picture, step) for picture in pictures for step in at]


def _comparing(mmdit: MMDiT, layers: Mapping, sums: dict[str, Sums]):
    """What `traced` calls: compares the layer's output with the quantized one's for the same input."""
    modules = linears(mmdit)

    def observe(path: str, x: mx.array) -> None:
        _add(sums, path, layers[path](x), modules[path](x))

    return observe


def _boundaries(mmdit: MMDiT, images: ImageSet, image: int, step: int, seen: dict[int, mx.array]) -> None:
    """Fills `seen` with the image stream at every boundary of one pass."""

    def observe(boundary: int, streams: Streams) -> None:
        seen[boundary] = streams.image

    with recorded(mmdit, observe):
        mx.eval(replay(mmdit, images, [image], step), *seen.values())


def _add(sums: dict, key: str | int, value: mx.array, reference: mx.array) -> None:
    reference = reference.astype(mx.float32)
    pair = mx.stack([mx.square(value.astype(mx.float32) - reference).sum(), mx.square(reference).sum()])
    wrong, size = np.array(pair).tolist()
    before = sums.get(key, (0.0, 0.0))
    sums[key] = before[0] + wrong, before[1] + size


def _relative(sums: Sums) -> float:
    wrong, size = sums
    return float(np.sqrt(wrong / size)) if size > 0 else float(np.sqrt(wrong))
