"""The time and the memory that a resumable run takes, kept block by block."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx

from ditq.core.files import read_json, write_json
from ditq.core.schema import checked


@dataclass(frozen=True)
class _Lap:
    seconds: float
    peak: float


class Stopwatch:
    """Seconds and peak memory of each block of a run, kept on disk; a block that was done before keeps its own."""

    def __init__(self, path: Path):
        self._path = path
        self._laps: dict[str, dict[str, float]] = _read(path) if path.exists() else {}
        self._begin()

    @property
    def seconds(self) -> float:
        """The sum over all blocks."""
        return sum(lap["seconds"] for lap in self._laps.values())

    @property
    def peak(self) -> int:
        """The largest peak of all blocks, in bytes that MLX held beside what it held before the block."""
        return max((int(lap["peak"]) for lap in self._laps.values()), default=0)

    def lap(self, number: int) -> None:
        """Ends a block and begins the next."""
        if str(number) not in self._laps:
            seconds = time.perf_counter() - self._started
            peak = mx.get_peak_memory() - self._held
            self._laps[str(number)] = {"seconds": round(seconds, 3), "peak": peak}
            write_json(self._path, self._laps)
        self._begin()

    def _begin(self) -> None:
        self._started, self._held = time.perf_counter(), mx.get_active_memory()
        mx.reset_peak_memory()


def _read(path: Path) -> dict[str, dict[str, float]]:
    """The laps of an earlier run. Raises UserError for a file of another shape."""
    laps = checked(read_json(path), dict[str, _Lap], str(path))
    return {number: asdict(lap) for number, lap in laps.items()}
