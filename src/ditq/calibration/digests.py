"""digests.json of a calibration folder: what its arrays held when they were written, so that changed ones are told.

It stands apart from manifest.json, whose digest seeds what is drawn at random from the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ditq.calibration.stored import MADE_BY, made_again_by
from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_stored_json, write_json
from ditq.core.schema import checked

NAME = "digests.json"
KIND, VERSION = "ditq.calibration_digests", 1


@dataclass(frozen=True)
class Digests:
    """`digest_of` what was written; what an older release wrote has none and is taken as it is."""

    conditioning: str | None = None
    samples: dict[str, list[str]] = field(default_factory=dict)
    """Of x at each step, by the picture's number."""

    def sample(self, image: int, step: int) -> str | None:
        """That of x of one picture at one step."""
        steps = self.samples.get(str(image), [])
        return steps[step] if step < len(steps) else None


def read_digests(folder: Path) -> Digests:
    """What a calibration folder says; nothing where it is of an older release."""
    path = folder / NAME
    if not path.exists():
        return Digests()
    with made_again_by(MADE_BY):
        content = read_stored_json(path, KIND, VERSION, MADE_BY)
        values = {name: value for name, value in content.items() if name not in ("kind", "version")}
        return checked(values, Digests, str(path))


def note_conditioning(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes down what conditioning.npz is about to hold."""
    _write(folder, Digests(digest_of(arrays), read_digests(folder).samples))


def note_samples(folder: Path, written: Mapping[int, Sequence[np.ndarray]]) -> None:
    """Writes down what the samples of some pictures are about to hold: x at each step, by the picture's number."""
    known = read_digests(folder)
    new = {str(image): [digest_of({"x": x}) for x in xs] for image, xs in written.items()}
    _write(folder, Digests(known.conditioning, {**known.samples, **new}))


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """What stands for the arrays: their names, dtypes, shapes and values."""
    parts = [(f"{name} {a.dtype} {a.shape}", np.ascontiguousarray(a).tobytes()) for name, a in arrays.items()]
    return plan.digest(*(part for both in sorted(parts) for part in both))


def check_digest(where: str, arrays: Mapping[str, np.ndarray], wanted: str | None) -> None:
    """Raises UserError, beginning with `where`, unless the arrays are those that were written; None: any are."""
    found = digest_of(arrays)
    if wanted is not None and found != wanted:
        expected = f"{wanted} as in {NAME}"
        raise UserError(where, got=f"other values than were recorded, of digest {found}", expected=expected)


def _write(folder: Path, digests: Digests) -> None:
    samples = {image: digests.samples[image] for image in sorted(digests.samples, key=int)}
    content = {"kind": KIND, "version": VERSION, "conditioning": digests.conditioning, "samples": samples}
    write_json(folder / NAME, content)
