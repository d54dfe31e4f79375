"""The tokenizers of CLIP and T5, and the warning about prompts that are too long for them."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ditq.core.errors import UserError
from ditq.core.files import read_json, read_text
from ditq.core.schema import checked
from ditq.models.diffusionkit.hub import Files
from ditq.models.prompts import short


class PromptTruncated(UserWarning):
    """A prompt has more tokens than a text encoder takes; the message shows what was cut."""


def truncated(
    ids: list[int], room: int, prompt: str, encoder: str, spell: Callable[[list[int]], str]
) -> list[int]:
    """The first `room` tokens; warns with the cut text when there are more."""
    if len(ids) > room:
        cut = short(spell(ids[room:]), 120)
        message = (
            f"{encoder} reads {room} of the {len(ids)} tokens of {short(prompt, 40)}; it does not see {cut}"
        )
        warnings.warn(message, PromptTruncated, stacklevel=3)
    return ids[:room]


def byte_tokenizer(files: Files, which: str) -> Any:
    """DiffusionKit's tokenizer, corrected, for CLIP-L ("l") or CLIP-G ("g"). Raises UserError for unfit files."""
    from ditq.models.diffusionkit.corrections import BYTES, ByteTokenizer

    vocab_path, merges_path = files.text(f"vocab_{which}"), files.text(f"merges_{which}")
    vocab = read_json(vocab_path)
    letters = [letter + end for letter in BYTES.values() for end in ("", "</w>")]
    needed = [*letters, "<|startoftext|>", "<|endoftext|>"]
    absent = [name for name in needed if name not in vocab] if isinstance(vocab, dict) else needed
    if absent:
        expected = "CLIP's vocabulary: each byte with and without </w>, begin and end of text"
        raise UserError(str(vocab_path), got=f"a vocabulary without {absent[0]!r}", expected=expected)
    _check_numbers(checked(vocab, dict[str, int], str(vocab_path)), vocab_path)
    lines = read_text(merges_path).strip().split("\n")
    pairs = [tuple(line.split()) for line in lines if not line.startswith("#version")]
    # OpenAI's own merges file goes on for longer than the vocabulary.
    merges = pairs[: len(vocab) - len(needed)]
    return ByteTokenizer({pair: rank for rank, pair in enumerate(merges)}, vocab, pad_with_eos=which == "l")


def _check_numbers(vocab: dict[str, int], path: Path) -> None:
    """Raises UserError unless the words are numbered from 0, the end of text last: CLIP pools where it stands."""
    numbers = set(vocab.values())
    if numbers != set(range(len(vocab))):
        got = f"{len(numbers)} numbers from {min(numbers)} to {max(numbers)} for {len(vocab)} words"
        raise UserError(str(path), got=got, expected="each number from 0 once")
    if vocab["<|endoftext|>"] != len(vocab) - 1:
        where = f"{path}: <|endoftext|>"
        raise UserError(where, got=vocab["<|endoftext|>"], expected=f"{len(vocab) - 1}, the last number")


class SentencePieces:
    """T5's tokenizer, from its SentencePiece model.

    DiffusionKit takes `transformers`' one for it, which needs the Hub even when the file is on disk.
    """

    def __init__(self, path: Path):
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise UserError(
                "sentencepiece",
                got=f"no such package ({error})",
                remedy="pip install sentencepiece, or leave T5 out with --text-encoders clip",
            ) from error
        try:
            self._pieces = SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise UserError(
                str(path), got="a file that cannot be read", expected="a SentencePiece model"
            ) from error
        self.eos_token: int = self._pieces.eos_id()

    def split(self, text: str) -> list[int]:
        """The tokens of a text, without the end, never truncated."""
        return list(self._pieces.encode(text))

    def spell(self, ids: list[int]) -> str:
        """The text of tokens."""
        return str(self._pieces.decode(ids))
