"""What a step takes: amounts that the step itself states, and this machine's speed, which turns them into seconds."""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import mlx.core as mx
import numpy as np

from ditq.core.files import write_npz

SIDE = 1024
"""Of the matrices whose product is timed."""
COUNT = 1 << 20
"""Values that element-wise operations and tallies are timed on."""
FILES = 8
"""Small files whose writing is timed."""


@dataclass(frozen=True)
class Cost:
    """Amounts of work, which add up, and memory, of which consecutive steps need the largest."""

    rows: float = 0.0
    """Rows through the whole network, without gradients; a block of it is a fraction of a row."""
    flops: float = 0.0
    """Operations of matrix products besides."""
    values: float = 0.0
    """Results of MLX's element-wise operations besides."""
    counted: float = 0.0
    """Values that NumPy puts into a histogram, or works as long on."""
    bytes: float = 0.0
    """Written to files."""
    files: float = 0.0
    """Written."""
    seconds: float = 0.0
    """Besides all that: figures, for instance."""
    memory: float = 0.0
    """Bytes that are held at once, beside the network's weights and what a pass through it takes."""

    def __add__(self, other: "Cost") -> "Cost":
        summed = {name: getattr(self, name) + getattr(other, name) for name in AMOUNTS}
        return Cost(**summed, memory=max(self.memory, other.memory))

    def times(self, count: float) -> "Cost":
        """So many of it, one after the other."""
        return Cost(**{name: count * getattr(self, name) for name in AMOUNTS}, memory=self.memory)


AMOUNTS = tuple(field.name for field in fields(Cost) if field.name != "memory")


@dataclass(frozen=True)
class Speed:
    """Seconds that one unit of each amount takes."""

    rows: float
    """At the batch size of the run."""
    flops: float
    values: float
    counted: float
    bytes: float
    files: float

    def seconds(self, cost: Cost) -> float:
        """What a cost takes."""
        units = {field.name: getattr(self, field.name) for field in fields(self)}
        return cost.seconds + sum(getattr(cost, name) * unit for name, unit in units.items())


def machine_speed(rows: float) -> Speed:
    """This machine's, measured in some tenths of a second; a row takes `rows` seconds."""
    byte, file = _writing()
    return Speed(rows, _product(), _elementwise(), _tally(), byte, file)


def process_memory() -> int:
    """Bytes of memory that this process has taken at most."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else 1024 * largest


def timed(run: Callable[[], object], least: int = 3, budget: float = 0.3) -> float:
    """The median duration of several calls after a first one; as many as fit into the budget, in seconds."""
    started = time.perf_counter()
    run()
    if (first := time.perf_counter() - started) > 2 * budget:
        return first
    seconds: list[float] = []
    while len(seconds) < least or (sum(seconds) < budget and len(seconds) < 50):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def _product() -> float:
    dtype = mx.float16 if mx.default_device() == mx.gpu else mx.float32
    a = mx.ones((SIDE, SIDE), dtype=dtype)
    return timed(lambda: mx.eval(a @ a), budget=0.1) / (2 * SIDE**3)


def _elementwise() -> float:
    x = mx.arange(COUNT).astype(mx.float32)
    return timed(lambda: mx.eval(mx.round(x * 0.3) + x), budget=0.1) / (3 * COUNT)


def _tally() -> float:
    x = np.arange(COUNT) % (1 << 16)
    return timed(lambda: np.bincount(x, minlength=1 << 16), budget=0.1) / COUNT


def _writing() -> tuple[float, float]:
    """Seconds per byte, and per file."""
    small, large = {"x": np.zeros(1)}, {"x": np.zeros(1 << 24, np.uint8)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = (
            timed(lambda: [write_npz(folder / f"{i}.npz", small) for i in range(FILES)], budget=0.05) / FILES
        )
        byte = max(0.0, timed(lambda: write_npz(folder / "large.npz", large), 1, 0.05) - file) / (1 << 24)
    return byte, file
