"""Printing that outlives its reader: results to standard output, one line for a mistake to standard error."""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from typing import Any


def say(text: str) -> None:
    """Prints to standard output at once. When nobody reads on, as in `... | head -1`, the rest is dropped quietly."""
    _print(sys.stdout, text)


def tell(args: argparse.Namespace, facts: Mapping[str, Any], text: str) -> None:
    """Prints the facts as one line of JSON where --json asks for it, else the text."""
    say(json.dumps(facts, ensure_ascii=False) if args.json else text)


def say_error(text: str) -> None:
    """Prints one line to standard error: what breaks lines or is no text in any encoding is escaped."""
    _print(sys.stderr, one_line(text))


def one_line(text: str) -> str:
    """The text on one line, with control characters and lone surrogates escaped."""
    shown = " ".join(text.split("\n")) if "\n" in text else text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)


def end_quietly() -> None:
    """Prints what standard output still holds; to be called before a command ends."""
    _print(sys.stdout, None)


def _print(stream: Any, text: str | None) -> None:
    if stream is None:  # closed by the shell: `>&-`
        return
    try:
        if text is not None:
            print(text, file=stream)
        stream.flush()
    except BrokenPipeError:
        _drop(stream)


def _drop(stream: Any) -> None:
    """Lets the stream's file lead nowhere, so that Python's last flush does not fail either."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):
        return
    with tempfile.TemporaryFile() as nowhere:
        os.dup2(nowhere.fileno(), number)
