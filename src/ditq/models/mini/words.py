"""Prompts to word ids: `mini` knows a few dozen words, and says so when it is asked for another."""

import re
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32


class UnknownWords(UserWarning):
    """A prompt has words that `mini` was never shown, or more words than it reads."""


@dataclass(frozen=True)
class Words:
    """The vocabulary: `known` in order of their ids (id 0 pads), other words for the same in `aliases`."""

    known: tuple[str, ...]
    aliases: dict[str, str]
    length: int
    """Words that a prompt may have."""

    def ids(self, prompts: list[str]) -> Int32[np.ndarray, "prompts length"]:
        """One row of word ids per prompt. Warns of what is left out: unknown words, and words beyond `length`."""
        rows = np.zeros((len(prompts), self.length), np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            ids = self._ids(prompt)
            row[: len(ids)] = ids
        return rows

    def _ids(self, prompt: str) -> list[int]:
        given: list[str] = re.findall(r"[\w-]+", prompt.lower())
        words = [word for one in given for word in self.aliases.get(one, one).split()]
        unknown = [word for word in words if word not in self.known[1:]]
        if unknown:
            known = " ".join(self.known[1:])
            warnings.warn(
                f"mini does not know {', '.join(map(repr, unknown))} in {prompt!r} and leaves it out; it knows "
                f"{known}",
                UnknownWords,
                stacklevel=4,
            )
        words = [word for word in words if word in self.known[1:]]
        if len(words) > self.length:
            cut = " ".join(words[self.length :])
            warnings.warn(
                f"mini reads {self.length} words; of {prompt!r} it leaves out {cut!r}",
                UnknownWords,
                stacklevel=4,
            )
        return [self.known.index(word) for word in words[: self.length]]
