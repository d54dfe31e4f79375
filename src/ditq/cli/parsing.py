"""The parser of all commands: flags in either spelling, a mistake told in one line, and what the user gave."""

import argparse
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn

from ditq.cli.output import say, say_error

_program: ContextVar[str | None] = ContextVar("program", default=None)


@contextmanager
def called_as(program: str) -> Iterator[None]:
    """Parsers made inside call their command `program`, in usage and example."""
    token = _program.set(program)
    try:
        yield
    finally:
        _program.reset(token)


def parser(description: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help ends with an example, and which takes `--old_spelling` for `--old-spelling`.

    The command is called what the example begins with, `python -m MODULE` or `python FILE`, unless `called_as` says
    otherwise.
    """
    words = example.split()
    written = " ".join(words[: 3 if words[1] == "-m" else 2])
    program = _program.get() or written
    return _Parser(
        prog=program,
        description=description,
        epilog=f"example:\n  {program}{example.removeprefix(written)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


class _Parser(argparse.ArgumentParser):
    """Accepts underscores in flag names, as some published commands spell them."""

    def parse_known_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        args = [_dashed(arg) for arg in (sys.argv[1:] if args is None else args)]
        found, rest = super().parse_known_args(args, namespace)
        typed = {word.partition("=")[0] for word in (args[: args.index("--")] if "--" in args else args)}
        names = {action.dest: action.option_strings[0] for action in self._actions if action.option_strings}
        by_user = (action.dest for action in self._actions if typed.intersection(action.option_strings))
        found.given = {dest: names[dest] for dest in by_user}
        return found, rest

    def error(self, message: str) -> NoReturn:
        """Ends with status 2 and one line, which names the flag by its first spelling."""
        message = re.sub(r"^argument ([^:/ ]+)[^: ]*: ", r"\1: ", message)
        more = f"; {self.prog} --help lists the flags" if message.startswith("unrecognized") else ""
        say_error(f"error: {message}{more}")
        self.exit(2)

    def _print_message(self, message, file=None):
        """Prints help and versions, into a closed pipe too."""
        if message:
            say(message.rstrip("\n"))


def _dashed(arg: str) -> str:
    flag, equals, value = arg.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else arg


def given(args: argparse.Namespace, *names: str) -> list[str]:
    """Of the flags with these destinations, those that the user gave, as the user would write them."""
    return [flag for name, flag in getattr(args, "given", {}).items() if name in names]


def without_effect(args: argparse.Namespace, reason: str, *names: str) -> None:
    """Warns, in one line, of flags that the user gave and that change nothing for this reason."""
    flags = given(args, *names)
    if flags:
        has = "has" if len(flags) == 1 else "have"
        warnings.warn(f"{', '.join(flags)}: {has} no effect {reason}", stacklevel=2)
