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

    Which version of ditq recorded the data is not compared. Plans of versions that named no weights are accepted.
    """
    model = settings["model"]
    weights = {"model": model, "weights": f"{model} {Origin.of(network)}"}
    asked = {**weights, **settings, "cache": cache_digest(cache)}
    earlier = _earlier(path)
    if isinstance(earlier, Mapping):
        if "weights" not in earlier:
            del asked["weights"]
        if earlier.get("cache") == _digest(
            cache, cache.meta
        ):  # as earlier versions had it, with the producer
            asked["cache"] = earlier["cache"]
    plan.begin(path, asked, resume, threads=True)


def _earlier(path: Path) -> Any:
    try:
        return read_json(path)
    except UserError:  # `plan.begin` tells it
        return None


def cache_digest(cache: BlockCache) -> str:
    """What stands for the calibration data of a run, whichever version of ditq recorded it."""
    return _digest(cache, {name: value for name, value in cache.meta.items() if name != "producer"})


def _digest(cache: BlockCache, meta: Mapping[str, Any]) -> str:
    conditioning = [array.tobytes() for array in cache.conditioning.values()]
    return plan.digest(repr(sorted(meta.items())), *conditioning)
