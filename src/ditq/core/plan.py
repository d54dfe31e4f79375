"""A long run's plan on disk, so that resuming it with other settings is an error and not a mixture."""

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files import read_json, remove_leftovers, write_json
from ditq.core.platform import cpu_threads
from ditq.core.schema import shown

THREADS = "cpu_threads"
"""A plan's field that says how a run computed, not what."""
PRODUCER, WEIGHTS = "producer", "weights"
"""The fields of the version that made a file, and of the digest of the network's weights."""


def begin(path: Path, plan: Mapping[str, Any], resume: bool, threads: bool = False) -> None:
    """Writes `plan` to `path`, or checks it against the one that is there; removes what killed runs left beside it.

    With `threads` the file also tells how many threads compute on the CPU, which changes results in their last bits:
    a run that is resumed with another number warns. Raises UserError when a plan is there and `resume` is false, when
    it cannot be read or is another kind of file, or when it differs: the field is named.
    """
    remove_leftovers(path.parent)
    used = {THREADS: cpu_threads()} if threads else {}
    if not os.path.lexists(path):
        write_json(path, {**plan, **used})
        return
    if not resume:
        raise UserError(
            str(path.parent), got="files of an earlier run", remedy="use --resume, --force or another place"
        )
    earlier = _earlier(path, plan)
    check(f"cannot resume {path.parent}", plan, earlier)
    before = earlier.get(THREADS)
    if threads and before is not None and before != used[THREADS]:
        warnings.warn(
            f"{path.parent} was begun with {before} CPU threads and goes on with {used[THREADS]}: results may differ "
            f"in their last bits from those of one run (set OMP_NUM_THREADS={before} for the same)",
            stacklevel=2,
        )


def check(what: str, plan: Mapping[str, Any], earlier: Mapping[str, Any]) -> None:
    """Raises UserError, which begins with `what` and names the field, when `plan` is not that of the earlier run.

    Which version made it does not count, nor do the weights where an older version kept no word of them.
    """
    fields = [*plan, *(field for field in earlier if field not in plan and field != THREADS)]
    for field in fields:
        if field == PRODUCER or (field == WEIGHTS and WEIGHTS not in earlier):
            continue
        if earlier.get(field) != plan.get(field):
            place, got, expected = _innermost(field, plan.get(field), earlier.get(field))
            raise UserError(
                f"{what}: {place}",
                got=_told(got),
                expected=f"{_told(expected)} as in the earlier run",
                remedy="use the same settings, --force or another place",
            )


def _earlier(path: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The stored plan. Raises UserError for a file that is none: unreadable, or with none of this plan's fields."""
    expected, remedy = "the settings of an earlier run", "use --force or another place"
    try:
        earlier = read_json(path)
    except UserError as error:
        raise UserError(error.what, got=error.got, expected=expected, remedy=remedy) from error
    if not isinstance(earlier, dict) or (plan and not earlier.keys() & plan.keys()):
        raise UserError(str(path), got="another kind of file", expected=expected, remedy=remedy)
    if "kind" in plan and earlier.get("kind") != plan["kind"]:
        got = f"a file of the kind {shown(earlier.get('kind'))}"
        raise UserError(str(path), got=got, expected=f"{expected} ({shown(plan['kind'])})", remedy=remedy)
    return earlier


def _innermost(field: str, got: Any, expected: Any) -> tuple[str, Any, Any]:
    """The innermost field that holds all that differs, dotted, with what differs of both values: a recipe is a page of
    text."""
    while isinstance(got, Mapping) and isinstance(expected, Mapping):
        differing = [key for key in {**got, **expected} if got.get(key) != expected.get(key)]
        if len(differing) != 1:
            mine, theirs = ({key: side[key] for key in differing if key in side} for side in (got, expected))
            return field, mine, theirs
        field, got, expected = f"{field}.{differing[0]}", got.get(differing[0]), expected.get(differing[0])
    return field, got, expected


def _told(value: Any) -> str:
    """A value in a message: whole where it is a single one, else its beginning."""
    return shown(value) if isinstance(value, Mapping | list) else repr(value)


def digest(*parts: str | bytes) -> str:
    """Sixteen hexadecimal digits that stand for the parts."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "little") + data)
    return sha.hexdigest()[:16]
