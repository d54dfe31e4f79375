"""The samples of a calibration folder: x of one picture at one step, read and held against the folder's manifest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16

from ditq.calibration.digests import check_digest
from ditq.calibration.stored import MADE_BY, check_array, check_place, made_again_by
from ditq.core.errors import UserError
from ditq.core.files import read_npz
from ditq.sampling.schedules import noise_of

HELD = ("x", "timestep", "sigma", "step_index", "image_id")
"""The arrays of a sample."""


def sample_file(folder: Path, image: int, step: int) -> Path:
    """Where the sample of one picture at one step lies."""
    return folder / f"{image:04d}_{step:03d}.npz"


def missing_samples(folder: Path, samples: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The samples that have no file yet."""
    return [sample for sample in samples if not sample_file(folder, *sample).is_file()]


def read_sample(
    folder: Path,
    manifest: Mapping[str, Any],
    image: int,
    step: int,
    shape: Sequence[int] | None,
    digest: str | None = None,
) -> Float16[np.ndarray, "1 height width channels"]:
    """x of one picture at one step of the calibration data in `folder`; `shape` is that of latents, and `digest` what
    digests.json says of it, where they are known.

    Raises UserError, naming file and array, for a sample that is missing, cut off, of another picture or step, or whose
    shape, dtype or numbers are not those of the manifest or of the digest.
    """
    path = sample_file(folder / "samples", image, step)
    with made_again_by(MADE_BY):
        sample = read_npz(path)
        missing = [name for name in HELD if name not in sample]
        if missing:
            raise UserError(str(path), got=f"no {missing[0]}", expected=", ".join(HELD))
        sigma = np.array(manifest["sigmas"][step : step + 1], np.float64)
        timestep = float(noise_of(manifest).timesteps(sigma)[0])
        check_place(path, sample, (image, step), float(sigma[0]), timestep)
        x = sample["x"]
        wanted = (1, *((None, None, None) if shape is None else shape))
        check_array(path, "x", x, wanted, "float16", "the folder's network.json" if shape else "")
        _check_side(path, x, manifest)
        check_digest(f"{path}: x", {"x": x}, digest)
    return x


def _check_side(path: Path, x: np.ndarray, manifest: Mapping[str, Any]) -> None:
    """Raises UserError unless latents so high and wide can be those of the manifest's pictures."""
    sides = manifest["height"], manifest["width"]
    factors = {pixels / cells if cells else 0 for pixels, cells in zip(sides, x.shape[1:3], strict=True)}
    if len(factors) != 1 or factors.pop() % 1 or 0 in x.shape:
        expected = f"latents of {sides[0]} x {sides[1]} pixels as in manifest.json"
        raise UserError(f"{path}: x", got=f"shape {x.shape}", expected=expected)
