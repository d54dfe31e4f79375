"""Prompts to word ids: `mini` knows a few dozen words, and says so when it is asked for another."""

import re
import warnings
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int32

from ditq.models.prompts import short

SHOWN = 3
"""How many unknown words a warning names."""


class UnknownWords(UserWarning):
    """A prompt has words that `mini` was never shown, or more words than it reads."""


@dataclass(frozen=True)
class Words:
    """The vocabulary: `known` in order of their ids (id 0 pads), other words for the same in `aliases`."""

    known: tuple[str, ...]
    aliases: dict[str, str]
    length: int
    """Words that a prompt may have."""
    _told: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

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
        unknown = list(dict.fromkeys(word for word in words if word not in self.known[1:]))
        if unknown:
            more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
            shown = ", ".join(short(word, 20) for word in unknown[:SHOWN]) + more
            self._warn(f"mini does not know {shown} in {short(prompt)}; docs/mini.md lists its words")
        words = [word for word in words if word in self.known[1:]]
        if len(words) > self.length:
            cut = short(" ".join(words[self.length :]))
            self._warn(f"mini reads {self.length} words; of {short(prompt)} it leaves out {cut}")
        return [self.known.index(word) for word in words[: self.length]]

    def _warn(self, message: str) -> None:
        """Warns once of each prompt, however often it is encoded."""
        if message not in self._told:
            self._told.add(message)
            warnings.warn(message, UnknownWords, stacklevel=5)
