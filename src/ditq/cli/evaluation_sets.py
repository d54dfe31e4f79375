"""The part of `python -m src.evaluate` that compares whole sets of pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ditq.core.errors import UserError
from ditq.evaluation import FLOOR, read_drawn
from ditq.evaluation.attributes import judge_of
from ditq.evaluation.distribution import SetScore, set_scores
from ditq.evaluation.features import (
    Extracted,
    FeatureNetwork,
    OwnFeatures,
    drawn_batches,
    extract,
    folder_batches,
    pictures_in,
)
from ditq.evaluation.metrics.sets import FEWEST
from ditq.evaluation.variants import slug_of
from ditq.models import TextToImage
from ditq.sampling.generate import Settings


@dataclass(frozen=True)
class SetJob:
    """The network that looks at the pictures, and the reference's files; without a network nothing is compared."""

    network: FeatureNetwork | None
    files: list[Path]
    """Empty: the float model's pictures from other seeds are the reference."""

    def reference(self, out: Path) -> Extracted | None:
        """What the network sees in the reference's files. Raises UserError for pictures that do not fit it."""
        if self.network is None or not self.files:
            return None
        return extract(
            self.network, folder_batches(self.files), out / "features" / self.network.name / "reference"
        )

    def scores(
        self,
        out: Path,
        variants: Sequence[str],
        reference: Extracted | None,
        on_picture: Callable[[int], None],
    ) -> list[SetScore]:
        """Of the pictures that `evaluate` left in `out`; the first of `variants` is the float model."""
        if self.network is None:
            return []
        sets: dict[str, Extracted] = {}
        for name in (*variants, FLOOR):
            kept = out / "features" / self.network.name / slug_of(name)
            sets[name] = extract(
                self.network, drawn_batches(read_drawn(out / "pictures", name)), kept, on_picture
            )
        return set_scores(self.network, sets, variants[0], FLOOR, reference)


def set_job(reference: Path | None, model: TextToImage, settings: Settings, pictures: int) -> SetJob:
    """What can be compared: with enough pictures of each variant, as the model's own classifier sees them.

    Raises UserError where a reference was given and it cannot.
    """
    judge = judge_of(model, settings)
    if reference is None:
        return SetJob(None if judge is None or pictures < FEWEST else OwnFeatures(judge, model.name), [])
    if pictures < FEWEST:
        raise UserError("--reference", got=f"--num-prompts {pictures}", expected=f"{FEWEST} or more")
    if judge is None:
        got = f"pictures of {settings.width} x {settings.height} of {model.name}, which brings no classifier for them"
        raise UserError("--reference", got=got, remedy="leave it out")
    return SetJob(OwnFeatures(judge, model.name), pictures_in(reference, FEWEST))
