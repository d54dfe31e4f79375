"""Features of many pictures, extracted batch by batch and kept: what is there is not extracted again."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from ditq.calibration.stored import check_array
from ditq.core.errors import UserError
from ditq.core.files import lock, read_npz, stored_meta, write_npz
from ditq.evaluation.features.base import Extracted, FeatureNetwork
from ditq.evaluation.features.sources import Batch

KIND, VERSION = "ditq.features", 1


def extract(
    network: FeatureNetwork,
    batches: Iterable[Batch],
    folder: Path,
    on_picture: Callable[[int], None] = lambda count: None,
) -> Extracted:
    """The features of all pictures, one batch of which is in memory at a time.

    `folder/{first picture:06d}.npz` keeps each finished batch. A file is used again when it is whole, and of the same
    pictures and network; else it is written anew. `on_picture(n)` reports n more pictures. Raises UserError where there
    is no picture, and for pictures that the network cannot read.
    """
    parts: list[Extracted] = []
    start = 0
    with lock(folder):
        for batch in batches:
            path = folder / f"{start:06d}.npz"
            part = _stored(path, network, batch)
            if part is None:
                part = _seen(network, batch)
                _write(path, part, network, batch)
            parts.append(part)
            start += batch.count
            on_picture(batch.count)
    if not parts:
        raise UserError(str(folder), got="no pictures", expected="pictures to take features of")
    return Extracted(
        np.concatenate([one.features for one in parts]), np.concatenate([one.probabilities for one in parts])
    )


def _seen(network: FeatureNetwork, batch: Batch) -> Extracted:
    pictures = batch.read()
    try:
        return network(pictures)
    except UserError as error:
        what = f"{batch.told}: {error.what}"
        raise UserError(what, got=error.got, expected=error.expected, remedy=error.remedy) from error


def _write(path: Path, part: Extracted, network: FeatureNetwork, batch: Batch) -> None:
    meta = {"kind": KIND, "version": VERSION, **_facts(network, batch)}
    arrays = {"features": part.features, "probabilities": part.probabilities}
    write_npz(path, {"__meta__": np.array(json.dumps(meta)), **arrays})


def _stored(path: Path, network: FeatureNetwork, batch: Batch) -> Extracted | None:
    """The batch's features where the file holds them, else None."""
    try:
        arrays = read_npz(path, ("__meta__", "features", "probabilities"))
        if stored_meta(arrays, path, KIND, VERSION, "an evaluation") != _facts(network, batch):
            return None
        for name in ("features", "probabilities"):
            check_array(path, name, arrays[name], (batch.count, None), "float32")
    except UserError:  # absent, cut off or of another version
        return None
    return Extracted(arrays["features"], arrays["probabilities"])


def _facts(network: FeatureNetwork, batch: Batch) -> dict[str, str]:
    return {"network": network.name, "fingerprint": network.fingerprint, "pictures": batch.key}
