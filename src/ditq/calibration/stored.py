"""Stored calibration data held against its manifest where it is read: file and array named, and what makes it again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ditq.core.errors import UserError

MADE_BY = "generate_calibration_data"
"""The step that makes folders of calibration pictures."""


@contextmanager
def made_again_by(step: str) -> Iterator[None]:
    """Adds to errors about stored files, which say nothing of it, how `step` makes the file again."""
    try:
        yield
    except UserError as error:
        if error.remedy is not None:
            raise
        first = "" if error.got == "no such file" else "remove the file and "
        remedy = f"{first}make it again: {step} --resume, with the settings of the run"
        raise UserError(error.what, got=error.got, expected=error.expected, remedy=remedy) from error


def check_array(
    path: Path, name: str, array: np.ndarray, shape: Sequence[int | None], dtype: str, source: str = ""
) -> None:
    """Raises UserError unless the array has this shape (None: any length) and dtype, and is finite.

    `source` says where these are stated.
    """
    fits = len(shape) == array.ndim and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    if not fits or array.dtype != dtype:
        axes = ", ".join("any" if length is None else str(length) for length in shape)
        expected = f"{dtype}({axes}{',' if len(shape) == 1 else ''}){f' as in {source}' if source else ''}"
        raise UserError(f"{path}: {name}", got=f"{array.dtype}{array.shape}", expected=expected)
    bad = 0 if array.dtype.kind != "f" else int((~np.isfinite(array)).sum())
    if bad:
        got = f"{bad:,} of {array.size:,} values that are not finite"
        raise UserError(f"{path}: {name}", got=got, expected="finite numbers")


def check_place(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    sample: tuple[int, int],
    sigma: float | None = None,
    timestep: float | None = None,
) -> None:
    """Raises UserError unless these arrays, all of which are there, are of this image and step, at this noise level."""
    for name, wanted in zip(("image_id", "step_index"), sample, strict=True):
        found = arrays[name]
        if found.shape != () or found.dtype.kind not in "iu":
            raise UserError(f"{path}: {name}", got=f"{found.dtype}{found.shape}", expected="one whole number")
        if int(found) != wanted:
            raise UserError(f"{path}: {name}", got=int(found), expected=f"{wanted} as the file is called")
    for name, number in (("sigma", sigma), ("timestep", timestep)):
        check_array(path, name, arrays[name], (), "float32")
        if number is not None and not np.isclose(arrays[name], number, rtol=1e-4, atol=1e-6):
            expected = f"{number:.7g} as in the manifest at step {sample[1]}"
            raise UserError(f"{path}: {name}", got=f"{float(arrays[name]):.7g}", expected=expected)
