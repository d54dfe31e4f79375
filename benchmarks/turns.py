"""Timing in turns: A, B, A, B in one process, since a machine's speed drifts by more than what is measured."""

import statistics
import time
from collections.abc import Callable


def in_turns(a: Callable, b: Callable, rounds: int, warm_up: bool = True) -> tuple[list[float], list[float]]:
    """Seconds of each call of `a` and of `b`, alternating, after one round that is not measured (if `warm_up`)."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(-1 if warm_up else 0, rounds):
        for function, times in zip((a, b), seconds, strict=True):
            started = time.perf_counter()
            function()
            if turn >= 0:
                times.append(time.perf_counter() - started)
    return seconds


def median_ratio(seconds: tuple[list[float], list[float]]) -> float:
    """The median over the rounds of b's time by a's in the same round."""
    return statistics.median(b / a for a, b in zip(*seconds, strict=True))
