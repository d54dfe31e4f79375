"""What passes from block to block: arrays by name, one row per sample.

An MMDiT carries `image` and `text`; a UNet its features and, under a name of their own, the skip connections that much
later blocks read. Beside what is carried, blocks read what is given to them from outside and no block writes: their
modulation, text tokens that stay as they are, masks. A block says what it reads and writes:

    class Block(nn.Module):
        reads = ("image", "text", "modulation.3")
        writes = ("image", "text")

        def __call__(self, image, text, modulation): ...
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import mlx.core as mx
import numpy as np
from jaxtyping import Int

BlockState = dict[str, mx.array]
"""Arrays by name, each with one row per sample."""
SomeRows = Int[np.ndarray, "some"]
BATCH, BATCH_VALUES = 16, 1 << 21
"""Rows that run through a block at once, and the values of its state that these have at most."""


@runtime_checkable
class Rows(Protocol):
    """An array that is not in memory: its rows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        ...

    def rows(self, rows: SomeRows) -> mx.array:
        """Some of its rows, in their own order."""
        ...


Stream = mx.array | Rows
"""One row per sample, in memory or elsewhere."""


@runtime_checkable
class Block(Protocol):
    """One block of a network: a module whose call takes the arrays that it reads and returns those that it writes."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of its arguments, in order."""
        ...

    @property
    def writes(self) -> tuple[str, ...]:
        """The names of its results, in order."""
        ...


def run_block(block: Block, state: Mapping[str, mx.array]) -> BlockState:
    """The state after a block: what it writes replaced, everything else as it was; nothing is evaluated."""
    outputs = block(*(state[name] for name in block.reads))  # pyright: ignore[reportCallIssue]
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {**state, **dict(zip(block.writes, outputs, strict=True))}


@dataclass(frozen=True)
class Flow:
    """Which block reads and writes which arrays: what there is, and what is still needed, at each boundary.

    Boundary k lies before block k; the last one behind the last block.
    """

    reads: tuple[tuple[str, ...], ...]
    """By block."""
    writes: tuple[tuple[str, ...], ...]
    begun: tuple[str, ...]
    """What is carried into the first block."""
    results: tuple[str, ...]
    """What the network's last part reads."""

    @classmethod
    def of(cls, blocks: Iterable[Block], begun: Sequence[str], results: Sequence[str]) -> "Flow":
        """The flow through these blocks."""
        blocks = list(blocks)
        return cls(
            tuple(tuple(block.reads) for block in blocks),
            tuple(tuple(block.writes) for block in blocks),
            tuple(begun),
            tuple(results),
        )

    @property
    def blocks(self) -> int:
        """The number of blocks; there is one boundary more."""
        return len(self.reads)

    def written(self, boundary: int) -> tuple[str, ...]:
        """What is new at a boundary: what the first block is given, or the block before it wrote."""
        return self.begun if boundary == 0 else self.writes[boundary - 1]

    def carried(self, boundary: int) -> dict[str, int]:
        """The arrays at a boundary that something behind it reads, each with the boundary at which it was new.

        One that is written again before it is read is not among them.
        """
        source = {name: at for at in range(boundary + 1) for name in self.written(at)}
        read, rewritten = set[str](), set[str]()
        for reads, writes in zip(self.reads[boundary:], self.writes[boundary:], strict=True):
            read.update(name for name in reads if name not in rewritten)
            rewritten.update(writes)
        read.update(name for name in self.results if name not in rewritten)
        return {name: at for name, at in source.items() if name in read}

    def read_later(self, block: int) -> tuple[str, ...]:
        """Of what a block writes, that which a later block or the network's last part reads."""
        later = self.carried(block + 1)
        return tuple(name for name in self.writes[block] if name in later)

    def inputs(self, block: int) -> tuple[str, ...]:
        """Of what a block reads, that which is carried to it; the rest is given."""
        carried = self.carried(block)
        return tuple(name for name in self.reads[block] if name in carried)


def take_rows(state: Mapping[str, Stream], rows: SomeRows) -> BlockState:
    """Some rows of every array, in float32; those that are elsewhere are read."""
    at = mx.array(rows)
    taken = {name: one[at] if isinstance(one, mx.array) else one.rows(rows) for name, one in state.items()}
    return {name: array.astype(mx.float32) for name, array in taken.items()}


def rows_at_once(state: Mapping[str, Stream]) -> int:
    """How many rows of such a state run through a block at once: `BATCH`, fewer where pictures are large."""
    values = sum(prod(array.shape[1:]) for array in state.values())
    return max(1, min(BATCH, BATCH_VALUES // max(1, values)))


def row_batches(rows: SomeRows, size: int = BATCH) -> Iterator[SomeRows]:
    """The rows, `size` at a time."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
