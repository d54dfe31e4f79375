"""The errors of ditq, and how a message is put together."""


class DitqError(Exception):
    """Any failure that ditq detects and explains; the command line prints it without a traceback.

    Its message may quote what a file holds: characters that a terminal would obey are shown as escapes.
    """

    def __str__(self) -> str:
        return "".join(
            char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode()
            for char in super().__str__()
        )


class UserError(DitqError):
    """A mistake that the user can mend, told as: what, what was got, what was expected, what to do.

    >>> str(UserError("--steps", got=0, expected="at least 1"))
    '--steps: got 0; expected at least 1'
    """

    exit_code = 2

    def __init__(self, what: str, *, got: object = None, expected: object = None, remedy: str | None = None):
        self.what, self.got, self.expected, self.remedy = what, got, expected, remedy
        facts = [
            f"{name} {value}" for name, value in (("got", got), ("expected", expected)) if value is not None
        ]
        facts += [remedy] if remedy else []
        super().__init__(f"{what}: {'; '.join(facts)}" if facts else what)
