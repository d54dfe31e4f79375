"""Commands that messages tell the user to run, spelled in one place, as the user called the command that failed."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_installed: ContextVar[bool] = ContextVar("installed", default=False)


@contextmanager
def as_installed() -> Iterator[None]:
    """Inside, remedies name the installed command `ditq STEP` in place of `python -m src.STEP`."""
    token = _installed.set(True)
    try:
        yield
    finally:
        _installed.reset(token)


def command(step: str, *words: object) -> str:
    """The command line of a step, its words quoted for a shell where they need it.

    >>> command("quantize", "--recipe", "w4a8-qronos", "--out", "my folder")
    "python -m src.quantize --recipe w4a8-qronos --out 'my folder'"
    """
    name = f"ditq {step.replace('_', '-')}" if _installed.get() else f"python -m src.{step}"
    return " ".join([name, *(shlex.quote(str(word)) for word in words)])


def again(step: str) -> str:
    """How to finish a run of a step: its other flags are the user's own."""
    return f"finish it: {command(step, '--resume')}, with the flags that began it"
