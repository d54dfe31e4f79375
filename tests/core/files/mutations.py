"""Files changed at random, from a seed: bytes anywhere, or one part of what an archive, a header or JSON holds.

Tests of other readers may use them on their own artefacts: `mutate(path, rng)` changes one that is there.
"""

import json
import random
import zipfile
from pathlib import Path
from typing import Any

from tests.core.files.crafted import npz, safetensors

JUNK: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        1e308,
        10**30,
        "",
        "x" * 2000,
        "../../x",
        "\0",
        [],
        {},
        [[]],
        {"": {}},
        "\ud800",
        2.5,
    ),
    *([1] * 50, "NaN", 2**31, 2**63),
]
NUMBERS = [0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def any_bytes(content: bytes, rng: random.Random) -> bytes:
    """The content with bytes flipped, cut off, left out, doubled, or numbers set to the ends of their ranges."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at:]
            case 2:
                del data[at : at + rng.randrange(1, 40)]
            case 3:
                data[at:at] = data[at : at + rng.randrange(1, 40)]
            case 4:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) & (256**size - 1)
                data[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 5:
                data[at:at] = rng.choice((b"\0" * 9, b"[" * 2000, b"\xef\xbb\xbf", b"9" * 30, b'"', b"NaN"))
            case 6:
                digits = [i for i, byte in enumerate(data) if 48 <= byte < 58] or [0]
                data[rng.choice(digits) : rng.choice(digits)] = str(rng.choice(NUMBERS)).encode()
    return bytes(data)


def any_value(value: Any, rng: random.Random) -> Any:
    """Parsed JSON with one part replaced, left out or nested in itself."""
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        copy = value.copy()
        key = rng.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        if rng.random() < 0.15:
            del copy[key]
        else:
            copy[key] = any_value(copy[key], rng)
        return copy
    return rng.choice((*JUNK, [value], {"x": value}))


def mutate_json(path: Path, rng: random.Random) -> None:
    path.write_text(json.dumps(any_value(json.loads(path.read_text()), rng)))


def mutate_npz(path: Path, rng: random.Random) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    name = rng.choice(list(entries))
    entries[name] = any_bytes(entries[name], rng)
    npz(path, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)), **entries)


def mutate_safetensors(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    safetensors(path, any_value(json.loads(content[8 : 8 + size]), rng), content[8 + size :])


INNER = {".json": mutate_json, ".npz": mutate_npz, ".safetensors": mutate_safetensors}
"""By suffix, what changes a part of the content and keeps the rest of the file in order."""


def mutate(path: Path, rng: random.Random) -> None:
    """Changes a file: bytes anywhere, or, in most cases, one part of what it holds."""
    inner = INNER.get(path.suffix)
    if inner is not None and rng.random() < 0.6:
        inner(path, rng)
    else:
        path.write_bytes(any_bytes(path.read_bytes(), rng))
