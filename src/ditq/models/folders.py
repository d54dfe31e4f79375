"""Which of the files in a folder is its checkpoint: variants, shards, and what systems and browsers leave there."""

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ditq.core.errors import UserError
from ditq.core.files import name_fault, read_json
from ditq.core.files.safetensors import Tensor, read_safetensors_header

VARIANTS = ("fp16", "bf16", "", "fp32", "fp8", "non_ema")
"""What publishers write into the names of files of the same weights, best first: 16 bit are enough for any use here."""
_INDEX = re.compile(r"(?P<stem>.+)\.safetensors\.index(\.(?P<variant>[\w-]+))?\.json")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(\.(?P<variant>[\w-]+))?")
_COPY = re.compile(r"(.+?)( ?\(\d+\)| - Copy| copy( \d+)?)")
_QUANTIZED = ("ditq.quantized_model", "ditq.adaround")
"""What the config.json of a folder names as its kind that export_checkpoint, quantize or adaround_optimize wrote."""
_LAYOUT = "a .safetensors file, or all shards of one with their .safetensors.index.json"


@dataclass(frozen=True)
class Candidate:
    """A whole checkpoint among the files of a folder."""

    files: tuple[Path, ...]
    """A file, an index, or shards that have none."""
    stem: str
    variant: str

    @property
    def name(self) -> str:
        """What a message calls it: its file, or the first of its shards."""
        return self.files[0].name


class SeveralVariants(UserWarning):
    """A folder holds the same weights in several dtypes; one is read."""


def weight_files(path: str | Path) -> tuple[list[Path], set[str]]:
    """The safetensors files of the checkpoint at `path`, and the keys that its index, if it has one, promises.

    `path` is a file, the index of a sharded one, or a folder. Of several variants in a folder the one in 16 bit is
    taken, with a SeveralVariants warning. Hidden files, partial downloads and second copies ("model (1).safetensors")
    are no checkpoints. Raises UserError that says what is there.
    """
    path = Path(path)
    check_not_quantized(path)
    files = _chosen(path, _candidates(path)).files if path.is_dir() else (path,)
    if not is_index(files[0]):
        return list(files), set()
    index = files[0]
    names = files_of(index)
    shards = [index.parent / name for name in sorted(set(names.values()))]
    for shard in shards:
        if not shard.exists():
            expected = f"a shard that {index.name} names"
            raise UserError(
                str(shard), got="no such file", expected=expected, remedy="copy or download it again"
            )
    return shards, set(names)


def check_not_quantized(path: Path) -> None:
    """Raises UserError where `path` is a folder that holds a quantized checkpoint of ditq's, whatever its version.

    A config.json that cannot be read is left to whoever needs it.
    """
    config = path / "config.json"
    try:
        found = read_json(config) if config.is_file() else None
    except UserError:
        found = None
    if isinstance(found, dict) and found.get("kind") in _QUANTIZED:
        raise UserError(
            str(path),
            got="a quantized checkpoint that ditq wrote",
            expected="the model in floating point",
            remedy="give this folder to --checkpoint, and to --model-path the model that it was made from",
        )


def headers(path: str | Path) -> dict[str, Tensor]:
    """What the headers of the files of the checkpoint at `path` say of each tensor; no values are read."""
    return {
        key: one for file in weight_files(path)[0] for key, one in read_safetensors_header(file)[0].items()
    }


def is_index(path: Path) -> bool:
    """Whether a file's name is that of a sharded checkpoint's index, with a variant or without."""
    return _INDEX.fullmatch(path.name) is not None


def files_of(index: Path) -> dict[str, str]:
    """Each key's file as an index names it. Raises UserError unless it is a map of texts to names of files."""
    found = read_json(index)
    expected = 'the index of a sharded checkpoint: {"weight_map": {key: file}}'
    if not isinstance(found, dict) or "weight_map" not in found:
        raise UserError(str(index), got="an index without 'weight_map'", expected=expected)
    where, names = f"{index}: weight_map", found["weight_map"]
    if not isinstance(names, dict) or not names:
        got = "nothing in it" if names == {} else f"{'null' if names is None else type(names).__name__}"
        raise UserError(where, got=got, expected="an object that names each key's file")
    for key, name in names.items():
        if fault := name_fault(name):
            raise UserError(f"{where}: {key}", got=fault, expected="the name of a file beside the index")
    return names


def _candidates(folder: Path) -> list[Candidate]:
    """Every checkpoint in a folder; an index without any shard counts only where there is nothing else."""
    there = {file.name: file for file in sorted(folder.iterdir()) if not file.name.startswith(".")}
    indices = [
        (Candidate((file,), *_split(at["stem"], at["variant"])), set(files_of(file).values()))
        for name, file in there.items()
        if (at := _INDEX.fullmatch(name))
    ]
    named = {name for _, names in indices for name in names}
    begun = [index for index, names in indices if names & there.keys()]
    indexed = {(one.stem, one.variant) for one in begun}
    free = [
        file
        for name, file in there.items()
        if name.endswith(".safetensors") and name not in named and not _is_copy(name, there)
    ]
    found = begun + [one for one in _without_index(folder, free) if (one.stem, one.variant) not in indexed]
    return found or [index for index, _ in indices]


def _without_index(folder: Path, files: Iterable[Path]) -> list[Candidate]:
    """Single files, and shards that tell by their names that all are there. Raises UserError where one is missing."""
    found, sharded = [], {}
    for file in files:
        stem = file.name.removesuffix(".safetensors")
        if at := _SHARD.fullmatch(stem):
            key = (*_split(at["stem"], at["variant"]), int(at["total"]))
            sharded.setdefault(key, {})[int(at["number"])] = file
        else:
            found.append(Candidate((file,), *_split(stem, None)))
    for (stem, variant, total), shards in sharded.items():
        if absent := [number for number in range(1, total + 1) if number not in shards]:
            got = f"{len(shards)} of {total} shards of {stem}; number {absent[0]} is missing"
            raise UserError(str(folder), got=got, remedy="copy or download the missing shards")
        found.append(Candidate(tuple(shards[number] for number in sorted(shards)), stem, variant))
    return found


def _chosen(folder: Path, found: list[Candidate]) -> Candidate:
    if not found:
        raise UserError(str(folder), got=_what_is_there(folder), expected=f"a checkpoint: {_LAYOUT}")
    if len(found) == 1:
        return found[0]
    if len({one.stem for one in found}) == 1 and len({one.variant for one in found}) == len(found):
        found = sorted(found, key=lambda one: VARIANTS.index(one.variant))
        others = ", ".join(one.name for one in found[1:])
        warnings.warn(f"{folder}: reads {found[0].name}, not {others}", SeveralVariants, stacklevel=4)
        return found[0]
    raise UserError(
        str(folder),
        got=f"several checkpoints ({_some([one.name for one in found])})",
        expected="one, or variants of one (model.fp16.safetensors beside model.safetensors)",
        remedy="move the others to another folder",
    )


def _split(stem: str, variant: str | None) -> tuple[str, str]:
    """`model.fp16` -> ("model", "fp16"): the name without its variant, and the variant."""
    if variant in VARIANTS:
        return stem, variant or ""
    for one in VARIANTS:
        for mark in "._-":
            if one and stem.endswith(f"{mark}{one}"):
                return stem.removesuffix(f"{mark}{one}"), one
    return stem, ""


def _is_copy(name: str, there: Iterable[str]) -> bool:
    """Whether a file is the second download of one that is there: "model (1).safetensors"."""
    at = _COPY.fullmatch(name.removesuffix(".safetensors"))
    return at is not None and f"{at[1]}.safetensors" in there


def _what_is_there(folder: Path) -> str:
    """What a folder without a checkpoint holds, in a few words."""
    names = sorted(file.name for file in folder.iterdir())
    partial = [name for name in names if name.endswith((".incomplete", ".part", ".crdownload", ".download"))]
    if partial:
        return f"no safetensors file, but a partial download ({_some(partial)})"
    visible = [name for name in names if not name.startswith(".")]
    return (
        f"no safetensors file among {_some(visible)}" if visible else "no safetensors file: an empty folder"
    )


def _some(names: list[str], shown: int = 5) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
