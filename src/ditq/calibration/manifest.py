"""manifest.json of a folder of calibration pictures: the settings that drew them, held against what these can be."""

from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np

from ditq.calibration.stored import MADE_BY
from ditq.core.errors import UserError
from ditq.core.files import read_stored_json
from ditq.core.remedies import command
from ditq.core.schema import FILLED, at_least, checked, shown, within
from ditq.sampling.schedules import PROCESSES
from ditq.sampling.steppers import STEPPERS

KIND, VERSION = "ditq.calibration_images", 1
BOUNDS = {
    "num_images": (1, 1_000_000),
    "num_steps": (1, 10_000),
    "batch_size": (1, 100_000),
    "seed": (0, 2**62),
    "cfg_weight": (0, 1000),
    "shift": (1e-3, 1000),
}
"""As the flags have them."""
AGAIN = f"make the data again: {MADE_BY} --force"


class _Read(TypedDict):
    """What every reader of manifest.json needs."""

    model: str
    num_images: Annotated[int, within(*BOUNDS["num_images"])]
    num_steps: Annotated[int, within(*BOUNDS["num_steps"])]
    cfg_weight: Annotated[float, within(*BOUNDS["cfg_weight"])]
    height: Annotated[int, at_least(1)]
    width: Annotated[int, at_least(1)]
    prompts: Annotated[list[str], FILLED]
    seeds: list[Annotated[int, at_least(0)]]
    sigmas: Annotated[list[Annotated[float, within(0, 1)]], FILLED]


class Manifest(_Read, total=False):
    """All of manifest.json; the rest says how the run was made."""

    batch_size: Annotated[int, within(*BOUNDS["batch_size"])]
    seed: Annotated[int, within(*BOUNDS["seed"])]
    shift: Annotated[float, within(*BOUNDS["shift"])]
    schedule: str
    sampler: str
    noise: str
    negative: str


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a calibration folder. Raises UserError when the folder holds none, or another kind of file."""
    path = folder / "manifest.json"
    if not path.exists():
        made_by = command("generate_calibration_data", "--model", "mini", "--calib-dir", folder)
        remedy = f"record it (here with mini): {made_by}"
        raise UserError(str(path), got="no such file", expected="a folder of calibration data", remedy=remedy)
    manifest = read_stored_json(path, KIND, VERSION, MADE_BY)
    check_manifest(manifest, path)
    return manifest


def check_manifest(manifest: dict[str, Any], path: Path) -> None:
    """Raises UserError, naming file and key, for settings that no run can have or that contradict each other."""
    checked(manifest, Manifest, str(path))
    for name, wanted in (("prompts", "num_images"), ("seeds", "num_images"), ("sigmas", "num_steps")):
        count = manifest[wanted] + (name == "sigmas")
        if len(manifest[name]) != count:
            got, expected = f"{len(manifest[name])} entries", f"{count}, as its {wanted} say"
            raise UserError(f"{path}: {name}", got=got, expected=expected)
    process = PROCESSES.get(manifest.get("noise", "rectified-flow"))
    if process is None:
        raise UserError(f"{path}: noise", got=manifest["noise"], expected=" or ".join(PROCESSES))
    for name, known in (("schedule", process.grids), ("sampler", STEPPERS)):
        if name in manifest and manifest[name] not in known:
            expected = " or ".join(known)
            raise UserError(f"{path}: {name}", got=shown(manifest[name]), expected=expected, remedy=AGAIN)
    _check_seeds(manifest, path)
    if "schedule" in manifest and "shift" in manifest:
        _check_sigmas(manifest, path)


def _check_seeds(manifest: dict[str, Any], path: Path) -> None:
    """Raises UserError unless the seeds count up from the first."""
    seeds = manifest["seeds"]
    first = manifest.get("seed", seeds[0])
    for i, seed in enumerate(seeds):
        if seed != first + i:
            expected = f"{first + i}: the seeds count up from {first}"
            raise UserError(f"{path}: seeds[{i}]", got=seed, expected=expected, remedy=AGAIN)


def _check_sigmas(manifest: dict[str, Any], path: Path) -> None:
    """Raises UserError unless the noise levels are those of schedule, shift and number of steps."""
    process = PROCESSES[manifest.get("noise", "rectified-flow")]
    wanted = process.grids[manifest["schedule"]](manifest["num_steps"], manifest["shift"])
    apart = ~np.isclose(manifest["sigmas"], wanted, rtol=1e-5, atol=1e-7)
    if apart.any():
        at = int(apart.argmax())
        follows = (
            f"which follows from schedule {manifest['schedule']}, shift {manifest['shift']:g} and num_steps"
        )
        got, expected = f"{manifest['sigmas'][at]:.7g}", f"{wanted[at]:.7g}, {follows}"
        raise UserError(f"{path}: sigmas[{at}]", got=got, expected=expected, remedy=AGAIN)
