"""How every command ends: a line for success, a line for a mistake, never a traceback for what is foreseen."""

import argparse
import errno
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from ditq.cli.output import end_quietly, one_line, say_error
from ditq.core.errors import DitqError, UserError

INTERRUPTED = 130
"""The shell's exit status of a program ended by Ctrl-C."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Other signals that end a command as Ctrl-C does, with 128 and the signal's number as the exit status."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Of the system's errors: no space left, over quota, beyond the limit of a file's size."""
MACHINE = {
    **dict.fromkeys(FULL, "free some space, or choose another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that can be read and written"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "close other programs, or raise the limit: ulimit -n"),
    errno.EIO: "check the disk",
    errno.ENOMEM: "close other programs, or take a smaller --batch-size",
    errno.ENAMETOOLONG: "choose a shorter name",
}
"""What to do about the system's errors whose cause is the machine's or the user's."""
MEMORY = (
    "unable to allocate",
    "out of memory",
    "insufficient memory",
    "maximum allowed buffer size",
    "bad_alloc",
)
"""What MLX says, in lower case, when memory is short."""


class Ended(KeyboardInterrupt):
    """A signal asked the command to end; `status` is the exit status."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number


def run(command: Callable[[], None], args: argparse.Namespace | None = None) -> None:
    """Runs a command's body; `args` are its flags.

    Exits with 2 for a user's mistake and for what the machine lacks, 1 for another foreseen failure, 130 for Ctrl-C,
    143 for SIGTERM and 129 for SIGHUP. Warnings are a line each on standard error, unless PYTHONWARNINGS or -W say
    otherwise.
    """
    with warnings.catch_warnings(), _ending_signals():
        if not sys.warnoptions:
            warnings.simplefilter("default")
        warnings.showwarning = _line_once()
        if hasattr(sys.stdout, "reconfigure"):  # a prompt that the terminal's encoding lacks ends no run
            sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore
        try:
            command()
            end_quietly()
        except UserError as error:
            _fail(f"error: {error}", error.exit_code)
        except DitqError as error:
            _fail(f"error: {error}", 1)
        except KeyboardInterrupt as error:
            _fail(_interrupted(args), getattr(error, "status", INTERRUPTED))
        except Warning as error:  # the user asked for it: -W error
            _fail(f"error: {error}", 1)
        except (OSError, MemoryError, RuntimeError) as error:
            told = machine_error(error)
            if told is None:
                raise
            _fail(f"error: {told}", UserError.exit_code)


def machine_error(error: BaseException) -> UserError | None:
    """The error that says what the machine lacks and what to do; None for any other cause, which is a bug."""
    if isinstance(error, OSError):
        remedy = MACHINE.get(error.errno or 0)
        place = str(error.filename or "the disk or standard output")
        return None if remedy is None else UserError(place, got=error.strerror, remedy=remedy)
    said = str(error)
    if isinstance(error, MemoryError) or any(words in said.lower() for words in MEMORY):
        detail = f"too little memory ({said})" if said else "too little memory"
        return UserError("memory", got=detail, remedy="take a smaller --batch-size or close other programs")
    if any(words in said for words in ("No space left", "File too large", "Disk quota exceeded")):
        return UserError("the disk", got=said, remedy=MACHINE[errno.ENOSPC])
    return None


@contextmanager
def _ending_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end a command as Ctrl-C does, so that temporary files are removed.

    A signal that somebody ignores (nohup) or handles stays so; Ctrl-C is heard again where a step left it to the system
    while it was importing.
    """

    def end(number: int, frame: object) -> NoReturn:
        raise Ended(number)

    main = threading.current_thread() is threading.main_thread()
    mine = [number for number in SIGNALS if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, end)
    if main and signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        mine.append(signal.SIGINT)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def _interrupted(args: argparse.Namespace | None) -> str:
    if hasattr(args, "resume"):
        return "interrupted: what was finished is kept; the same command with --resume goes on from there"
    return "interrupted: nothing is half written; the same command begins again"


def _fail(message: str, status: int) -> NoReturn:
    end_quietly()
    if status > 128 and sys.stderr is not None and sys.stderr.isatty():
        say_error("")  # the terminal's ^C and a progress bar end on their own line
    say_error(message)
    sys.exit(status)


def _line_once() -> Callable[..., None]:
    """What shows a warning as one line, each text once."""
    told: set[str] = set()

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        text = one_line(f"warning: {message}")
        if text not in told:
            told.add(text)
            say_error(text)

    return show
