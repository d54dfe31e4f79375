"""Whether pictures show what their prompts ask for, as a classifier that comes with the model sees it.

Same-seed scores say how far a picture has moved; this says whether the asked object, colour, place and position are
still there. A model that brings no classifier has no such figures. They are the classifier's, right or wrong: float
pictures are judged by it too, and a variant is to be compared with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from ditq.core.errors import UserError
from ditq.evaluation.drawing import read_drawn
from ditq.models.base import TextToImage
from ditq.sampling.generate import Settings

EVERYTHING = "everything asked"
"""Of a picture: all that its prompt asks for, as a line of the table beside the single attributes."""
LEVEL = 0.95
"""Of the intervals."""


@runtime_checkable
class PictureJudge(Protocol):
    """A classifier of pictures that also knows what a prompt asks for."""

    attributes: tuple[str, ...]
    """What it tells of a picture."""
    side: int
    """Height and width of the pictures that it reads."""
    fingerprint: str
    """Changes when what it sees does."""

    def asked(self, prompts: list[str]) -> Int64[np.ndarray, "prompts attributes"]:
        """The class of each attribute that each prompt asks for; below 0: none."""
        ...

    def see(self, pictures: UInt8[np.ndarray, "pictures height width 3"]) -> Any:
        """Of each picture `labels`, the class of each attribute; `features`; and `objects`, the logits of objects."""
        ...


@dataclass(frozen=True)
class AttributeScore:
    """How often an attribute that was asked for is there in the pictures of a variant."""

    variant: str
    attribute: str
    asked: int
    shown: int
    low: float
    """Of the part that is shown: the lower end of its Wilson interval."""
    high: float
    lost: int
    """Shown by the float model's picture of the same prompt and seed, and not by this one."""
    gained: int
    """The other way round."""

    @property
    def part(self) -> float:
        """That is shown, of what was asked."""
        return self.shown / self.asked


def wilson(hits: int, count: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a proportion that covers it with this probability (Wilson 1927, without continuity correction).

    Raises UserError for a count of 0.
    """
    if not 0 <= hits <= count or count == 0:
        raise UserError("a proportion", got=f"{hits} of {count}", expected="at least one trial")
    z = NormalDist().inv_cdf((1 + level) / 2)
    part, shrunk = hits / count, 1 + z * z / count
    middle = (part + z * z / (2 * count)) / shrunk
    half = z / shrunk * sqrt(part * (1 - part) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def judge_of(model: TextToImage, settings: Settings) -> PictureJudge | None:
    """The classifier that comes with a model; None where there is none that reads pictures of this size."""
    judge = getattr(model, "judge", None)
    if not isinstance(judge, PictureJudge):
        return None
    return judge if settings.height == settings.width == judge.side else None


def attribute_scores(
    judge: PictureJudge, prompts: Sequence[str], folder: Path, reference: str, variants: Sequence[str]
) -> list[AttributeScore]:
    """The scores of each variant whose pictures `evaluate` left in `folder`, the `reference` among them.

    A prompt that the classifier cannot read asks for nothing.
    """
    asked: Int64[np.ndarray, "prompts attributes"] = np.stack([_asked(judge, one) for one in prompts])
    float_hits = _hits(judge, folder, reference, asked)
    scores: list[AttributeScore] = []
    for variant in variants:
        hits = float_hits if variant == reference else _hits(judge, folder, variant, asked)
        for at, attribute in enumerate(judge.attributes):
            counts = asked[:, at] >= 0
            scores += _score(variant, attribute, hits[counts, at], float_hits[counts, at])
        counts = (asked >= 0).any(axis=1)
        whole, float_whole = (np.all(one | (asked < 0), axis=1) for one in (hits, float_hits))
        scores += _score(variant, EVERYTHING, whole[counts], float_whole[counts])
    return scores


def attribute_table(scores: Sequence[AttributeScore]) -> list[list[str]]:
    """A row for each variant: the part of each attribute that is shown, with its interval, then what changed."""
    attributes = list(dict.fromkeys(one.attribute for one in scores))
    table = [["variant", *(f"{name}, %" for name in attributes), "lost", "gained"]]
    for variant in dict.fromkeys(one.variant for one in scores):
        own = {one.attribute: one for one in scores if one.variant == variant}
        whole = own[EVERYTHING]
        cells = [_cell(own[name]) if name in own else "" for name in attributes]
        table.append([variant, *cells, str(whole.lost), str(whole.gained)])
    return table


def attribute_sentence(scores: Sequence[AttributeScore], variant: str, reference: str) -> str:
    """In how many pictures of a variant everything is there that was asked for, and in how many float ones."""
    own, other = (
        next(one for one in scores if one.variant == name and one.attribute == EVERYTHING)
        for name in (variant, reference)
    )
    return (
        f"Everything that the prompt asks for is there in {own.shown} of {own.asked} of its pictures, and in "
        f"{other.shown} of the float model's."
    )


def _asked(judge: PictureJudge, prompt: str) -> Int64[np.ndarray, "attributes"]:
    try:
        return judge.asked([prompt])[0]
    except UserError:
        return np.full(len(judge.attributes), -1, np.int64)


def _hits(
    judge: PictureJudge, folder: Path, variant: str, asked: Int64[np.ndarray, "prompts attributes"]
) -> Bool[np.ndarray, "prompts attributes"]:
    """Whether each attribute of each picture is as asked."""
    seen = [judge.see(batch.pictures).labels for batch in read_drawn(folder, variant).batches()]
    return np.concatenate(seen) == asked


def _score(
    variant: str, attribute: str, hits: Bool[np.ndarray, "asked"], others: Bool[np.ndarray, "asked"]
) -> list[AttributeScore]:
    """None where it was never asked for."""
    if not len(hits):
        return []
    shown = int(hits.sum())
    lost, gained = int((others & ~hits).sum()), int((hits & ~others).sum())
    return [AttributeScore(variant, attribute, len(hits), shown, *wilson(shown, len(hits)), lost, gained)]


def _cell(score: AttributeScore) -> str:
    low, high = (f"{100 * end:.0f}" for end in (score.low, score.high))
    return f"{100 * score.part:.0f} ({low} to {high})"
