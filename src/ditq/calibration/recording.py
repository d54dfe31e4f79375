"""Watching the streams between blocks while a model runs, without touching what it computes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ditq.calibration.block_cache import Streams
from ditq.capture import swapped
from ditq.core.errors import UserError
from ditq.models.mmdit.model import Chunks, MMDiT, MultiModalTransformerBlock

DTYPES = {"float16": mx.float16, "float32": mx.float32}
"""What streams may be stored as."""

Observe = Callable[[int, Streams], None]
"""Receives a boundary's number and the streams there, in the model's dtype."""


def recorded(mmdit: MMDiT, observe: Observe) -> AbstractContextManager[nn.Module]:
    """`mmdit` whose blocks show the streams at each boundary to `observe(boundary, streams)`; on leaving they stop.

    What `observe` evaluates at once can be freed before the next block runs.
    """
    blocks = mmdit.multimodal_transformer_blocks
    recorders: dict[str, nn.Module] = {
        f"multimodal_transformer_blocks.{i}": BlockRecorder(i, block, observe, last=i == len(blocks) - 1)
        for i, block in enumerate(blocks)
    }
    return swapped(mmdit, recorders)


class BlockRecorder(nn.Module):
    """Stands in the place of a block: shows its inputs, and for the last block its outputs, to `observe`."""

    def __init__(self, number: int, block: MultiModalTransformerBlock, observe: Observe, last: bool):
        super().__init__()
        self.number, self.block, self.observe, self.last = number, block, observe, last

    def modulation(self, condition: mx.array) -> mx.array:
        """The block's shifts, scales and gates."""
        return self.block.modulation(condition)

    def take_chunks(self, chunks: Iterator[mx.array]) -> tuple[Chunks, Chunks]:
        """The block's modulation, drawn from `chunks`."""
        return self.block.take_chunks(chunks)

    def __call__(
        self, image: mx.array, text: mx.array, image_mod: Chunks, text_mod: Chunks
    ) -> tuple[mx.array, mx.array]:
        """What the block makes of the streams."""
        self.observe(self.number, Streams(image, text))
        outputs = self.block(image, text, image_mod, text_mod)
        if self.last:
            self.observe(self.number + 1, Streams(*outputs))
        return outputs


def stored(streams: Streams, boundary: int, dtype: str, where: str) -> list[np.ndarray]:
    """Image and text stream as they go to disk; evaluates them.

    Raises UserError, with block, stream and `where`, for values that `dtype` cannot hold.
    """
    both = {"image": streams.image, "text": streams.text}
    stored = [array.astype(DTYPES[dtype]) for array in both.values()]
    mx.eval(stored)
    for (name, array), kept in zip(both.items(), stored, strict=True):
        if not mx.isfinite(kept).all().item():
            raise _overflow(name, array, boundary, dtype, where)
    return [np.array(array) for array in stored]


def _overflow(name: str, array: mx.array, boundary: int, dtype: str, where: str) -> UserError:
    place = f"input of block {boundary}" if boundary == 0 else f"output of block {boundary - 1}"
    what = f"{place}, {name} stream, {where}"
    if not mx.isfinite(array).all().item():
        return UserError(
            what,
            got=f"values that are not finite: the transformer overflowed {array.dtype}",
            remedy="use --dtype bfloat16 or float32",
        )
    greatest = np.abs(np.array(array.astype(mx.float32))).max()
    return UserError(
        what, got=f"{greatest:,.0f}, beyond the range of {dtype}", remedy="use --storage-dtype float32"
    )
