"""The arrays of a timestep's file, layer by layer, held against the file's format."""

from pathlib import Path

import numpy as np

from ditq.calibration.stored import check_array
from ditq.core.errors import UserError
from ditq.diagnostics.histogram import wide_edges

PER_CHANNEL = ("avg_min", "avg_max", "abs_min", "abs_max", "column_norms")
"""Arrays with a number for each channel."""


def check_values(path: Path, layer: str, values: dict[str, np.ndarray], channels: int) -> None:
    """Raises UserError unless a layer's arrays have the shapes and dtypes of this file's format, and make sense."""
    rows = values["sample"].shape[:1]
    kinds: dict[str, tuple[tuple[int, ...], str]] = dict.fromkeys(PER_CHANNEL, ((channels,), "float64"))
    kinds |= {"abs_min": ((channels,), "float32"), "abs_max": ((channels,), "float32")}
    kinds |= {"shift": ((channels,), "float64"), "hist": ((len(wide_edges()) - 1,), "int64")}
    kinds |= {"images": ((), "int64"), "count": ((), "int64"), "priorities": (rows, "float64")}
    packed = "float32" if values["sample"].dtype == np.float32 else "float16"
    kinds["sample"] = ((*rows, channels), packed)
    for name, array in values.items():
        check_array(path, f"{layer}: {name}", array, *kinds[name])
    if values["images"] < 1 or values["count"] < 1 or values["hist"].min() < 0:
        raise UserError(f"{path}: {layer}", got="counts of no or fewer values", expected="one at least")
    if (values["abs_min"] > values["abs_max"]).any():
        raise UserError(f"{path}: {layer}", got="abs_min above abs_max", expected="least and greatest values")
