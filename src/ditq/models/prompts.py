"""Prompts as users give them: what is no text is refused before anything is loaded, and shown shortly in messages."""

from collections.abc import Sequence

from ditq.core.errors import UserError

LONGEST = 10_000
"""Characters; the text encoders read some seventy words, and tokenizers take time that grows with the square."""


def checked_prompts(prompts: Sequence[str]) -> list[str]:
    """The prompts, if all are text. Raises UserError that shows the prompt with what is none in it, and where.

    On the command line, a byte that is not UTF-8 becomes half of a surrogate pair, which no file can hold.
    """
    for prompt in prompts:
        if len(prompt) > LONGEST:
            raise UserError(
                f"prompt {short(prompt)}",
                got=f"{len(prompt):,} characters",
                expected=f"{LONGEST:,} at most",
                remedy="is it the text of a whole file? Each prompt is a line",
            )
        for place, letter in enumerate(prompt):
            if letter == "\0" or 0xD800 <= ord(letter) <= 0xDFFF:
                raise UserError(
                    f"prompt {short(prompt)}",
                    got="a NUL character"
                    if letter == "\0"
                    else f"a byte that is not UTF-8 at character {place + 1}",
                    expected="text",
                    remedy="write it in UTF-8, without control characters",
                )
    return list(prompts)


def short(prompt: str, length: int = 60) -> str:
    """A prompt in quotes for a message, cut at the end; what cannot be printed is spelt as an escape."""
    cut = prompt if len(prompt) <= length else f"{prompt[: length - 3]}..."
    return repr(cut)
