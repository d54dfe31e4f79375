"""Steps that run in order, each marked on disk when it is finished and passed over from then on."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ditq.core.files import read_json, write_json


@dataclass(frozen=True)
class Finished:
    """A step that is over."""

    name: str
    line: str
    seconds: float
    anew: bool
    """False: an earlier run had finished it."""


def finish(folder: Path, steps: list[tuple[str, Callable[[], str]]]) -> Iterator[Finished]:
    """Runs each step that is not marked as finished, in order, and marks it."""
    for name, step in steps:
        marker = folder / "steps" / f"{name}.json"
        if marker.exists():
            told = read_json(marker)
            yield Finished(name, told["line"], told["seconds"], False)
            continue
        started = time.perf_counter()
        line = step()
        mx.clear_cache()  # of sizes that the next step does not use
        seconds = round(time.perf_counter() - started, 1)
        write_json(marker, {"line": line, "seconds": seconds})
        yield Finished(name, line, seconds, True)


def facts(finished: list[Finished]) -> list[dict[str, Any]]:
    """The finished steps as JSON."""
    return [vars(step) for step in finished]
