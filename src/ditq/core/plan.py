"""A long run's plan on disk, so that resuming it with other settings is an error and not a mixture."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files import read_json, write_json


def begin(path: Path, plan: Mapping[str, Any], resume: bool) -> None:
    """Writes `plan` to `path`, or checks it against the one that is there.

    Raises UserError when a plan is there and `resume` is false, or when it differs: the field is named.
    """
    if not path.exists():
        write_json(path, dict(plan))
        return
    if not resume:
        raise UserError(
            str(path.parent), got="files of an earlier run", remedy="use --resume, --force or another place"
        )
    earlier = read_json(path)
    if not isinstance(earlier, dict):
        raise UserError(str(path), got="another kind of file", expected="the settings of an earlier run")
    for field in [*plan, *(field for field in earlier if field not in plan)]:
        if earlier.get(field) != plan.get(field):
            place, got, expected = _innermost(field, plan.get(field), earlier.get(field))
            raise UserError(
                f"cannot resume {path.parent}: {place}",
                got=repr(got),
                expected=f"{expected!r} as in the earlier run",
                remedy="use the same settings, --force or another place",
            )


def _innermost(field: str, got: Any, expected: Any) -> tuple[str, Any, Any]:
    """The innermost field that holds all that differs, dotted, with both its values: a recipe is a page of text."""
    while isinstance(got, Mapping) and isinstance(expected, Mapping):
        differing = [key for key in {**got, **expected} if got.get(key) != expected.get(key)]
        if len(differing) != 1:
            break
        field, got, expected = f"{field}.{differing[0]}", got.get(differing[0]), expected.get(differing[0])
    return field, got, expected


def digest(*parts: str | bytes) -> str:
    """Sixteen hexadecimal digits that stand for the parts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()[:16]
