"""What filling a block cache takes, told from its metadata."""

from collections.abc import Mapping
from typing import Any

from ditq.calibration.block_cache import array_key
from ditq.calibration.block_caching import DTYPES, sample_bytes
from ditq.core.cost import Cost
from ditq.core.files import npz_size

CHECKED = 4
"""Element-wise operations for each value that is converted, checked and copied."""


def cache_cost(meta: Mapping[str, Any], batches: int, samples: int) -> Cost:
    """What running so many of its batches takes, with so many samples."""
    size, rows = min(meta["batch_size"], meta["num_images"]), meta["rows_per_sample"]
    blocks, value = meta["blocks"], DTYPES[meta["storage_dtype"]].size
    arrays = {
        array_key(name, boundary, blocks): ((rows, *shape), value)
        for boundary, new in enumerate(meta["states"])
        for name, shape in new.items()
    }
    arrays |= dict.fromkeys(("timestep", "sigma", "step_index", "image_id"), ((), 4))
    return Cost(
        rows=samples * rows,
        values=CHECKED * samples * sample_bytes(meta) / value,
        bytes=samples * npz_size(arrays),
        files=samples + batches,
        memory=2 * size * sample_bytes(meta),
    )
