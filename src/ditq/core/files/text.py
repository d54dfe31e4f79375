"""Text and JSON: UTF-8 without its byte order mark, and JSON as strict as its standard."""

import json
import math
import re
from pathlib import Path
from typing import Any, BinaryIO

from ditq.core.files.kinds import SNIFFED, kind_of
from ditq.core.files.reading import reading

LARGEST = 256_000_000
"""Bytes of a text at most; the largest here, a tokenizer's words, has a few million."""
DEEPEST = 100
"""How deep lists and objects may lie in each other."""
_NO_PLAIN_TEXT = ("a Git LFS pointer", "an HTML page", "an RTF document")
"""What is UTF-8, and still not what anybody means: its lines would be drawn as prompts."""
_MARK = "\ufeff"
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file, without a byte order mark, its lines ended by newlines alone."""
    return reading(path, _text, "UTF-8 text", LARGEST, right=("a JSON text",))


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. Refused: NaN and infinity, a key that stands twice, nesting deeper than DEEPEST."""
    return reading(path, lambda file: parsed(_text(file)), "JSON", LARGEST, right=("a JSON text",))


def parsed(text: str) -> Any:
    """The value of a JSON text. Raises ValueError for what JSON's standard has not, and for what would mislead."""
    value = json.loads(text, parse_constant=_no_number, parse_float=_finite, object_pairs_hook=_object)
    level = [value]
    for _ in range(DEEPEST):
        level = [one for outer in level if isinstance(outer, dict | list) for one in _inner(outer)]
    if any(isinstance(one, dict | list) for one in level):
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if _HALF.search(text):
        json.dumps(
            value, ensure_ascii=False
        ).encode()  # half a character fails here, and not where it is printed
    return value


def _inner(outer: dict[str, Any] | list[Any]) -> list[Any]:
    """The lists and objects in a list or object."""
    values = outer.values() if isinstance(outer, dict) else outer
    return [one for one in values if isinstance(one, dict | list)]


def _text(file: BinaryIO) -> str:
    content = file.read(LARGEST + 1)
    kind = kind_of(content[:SNIFFED])
    if kind is not None and kind[0] in _NO_PLAIN_TEXT:
        raise ValueError("it is no plain text")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError("UTF-16")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if b"\0" in content:
            raise ValueError("it is not text") from error
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line} holds the byte 0x{content[error.start]:02x}; save it as UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError("it holds zero bytes: it is not text")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.lstrip(_MARK).replace(
        f"\n{_MARK}", "\n"
    )  # files with marks that were put one after the other


def _no_number(name: str) -> Any:
    raise ValueError(f"{name}, which JSON has not")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:40]}, a number that is too large")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found
