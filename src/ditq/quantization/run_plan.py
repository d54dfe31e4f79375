"""The plan of a run of quantization: what a resumed run must share, the float weights among it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ditq.calibration import BlockCache
from ditq.checkpoint.origin import Origin
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_json
from ditq.models.base import Network


def begin_run(
    path: Path, settings: Mapping[str, Any], network: Network, cache: BlockCache, resume: bool
) -> None:
    """Writes the plan of a run, or checks it against the one that is there; see `core.plan.begin`.

    The weights of the float network are compared where the earlier plan names some; which version of ditq recorded the
    data is not.
    """
    model, earlier = settings["model"], _earlier(path)
    told = {"model": model, plan.WEIGHTS: f"{model} {Origin.of(network)}"}
    asked = {**told, **settings, "cache": cache_digest(cache)}
    if isinstance(earlier, Mapping) and earlier.get("cache") in _earlier_digests(cache):
        asked["cache"] = earlier["cache"]
    plan.begin(path, asked, resume, threads=True)


def cache_digest(cache: BlockCache) -> str:
    """What stands for the calibration data of a run, whichever version of ditq recorded it.

    The network's weights are compared by themselves.
    """
    return _digest(cache, plan.PRODUCER, plan.WEIGHTS)


def _earlier_digests(cache: BlockCache) -> list[str]:
    """The same as earlier versions had it, with the producer."""
    return [_digest(cache), _digest(cache, plan.WEIGHTS)]


def _digest(cache: BlockCache, *without: str) -> str:
    meta = {name: value for name, value in cache.meta.items() if name not in without}
    conditioning = [array.tobytes() for array in cache.conditioning.values()]
    return plan.digest(repr(sorted(meta.items())), *conditioning)


def _earlier(path: Path) -> Any:
    try:
        return read_json(path)
    except UserError:  # `plan.begin` tells it
        return None
