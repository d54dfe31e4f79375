"""How every command ends: a line for success, a line for a mistake, never a traceback for what is foreseen."""

import sys
import warnings
from collections.abc import Callable

from ditq.core.errors import DitqError, UserError

INTERRUPTED = 130
"""The shell's exit status of a program ended by Ctrl-C."""


def run(command: Callable[[], None]) -> None:
    """Runs a command's body; exits 2 for a user's mistake, 1 for another foreseen failure, 130 for Ctrl-C."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _one_line
        try:
            command()
        except UserError as error:
            _fail(f"error: {error}", error.exit_code)
        except DitqError as error:
            _fail(f"error: {error}", 1)
        except KeyboardInterrupt:
            _fail(
                "interrupted: what was finished is kept; where the command has --resume, --resume goes on from there",
                INTERRUPTED,
            )


def _fail(message: str, status: int) -> None:
    print(f"\n{message}" if status == INTERRUPTED else message, file=sys.stderr)
    sys.exit(status)


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {message}", file=sys.stderr)
