"""A float model and its quantized selves, compared on the same prompts and seeds."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ditq.cli.progress import Progress
from ditq.core.errors import UserError
from ditq.evaluation import (
    FIRST_SEED,
    FLOAT,
    EvalReport,
    evaluate,
    evaluation_prompts,
    float_variant,
    quantized_variant,
    read_drawn,
    rows,
)
from ditq.models.base import TextToImage
from ditq.notebook.arguments import checked_arguments
from ditq.notebook.checks import refused
from ditq.notebook.folders import check_own
from ditq.notebook.model import Model, float_model, inner_of, listed, settings_from
from ditq.notebook.pictures import row, table, text_table
from ditq.notebook.quantized import QuantizedModel

SHOWN = 6
"""Prompts whose pictures a notebook shows."""


class Comparison:
    """Scores of quantized models against their float model, and the first pictures of each."""

    def __init__(self, report: EvalReport, pictures: dict[str, UInt8[np.ndarray, "shown height width 3"]]):
        self.report, self.pictures = report, pictures

    def __repr__(self) -> str:
        return text_table(rows(self.report))

    def _repr_html_(self) -> str:
        grid = []
        for number, prompt in enumerate(self.report.prompts[:SHOWN]):
            captions = [f"{name}: {prompt}" for name in self.pictures]
            grid.append(row(zip([own[number] for own in self.pictures.values()], captions, strict=True)))
        return table(rows(self.report)) + "".join(grid)


def _opened(argument: str, given: tuple[Any, ...]) -> tuple[QuantizedModel, ...]:
    """The check of the quantized models."""
    for one in given:
        if isinstance(one, Model) and not isinstance(one, QuantizedModel):
            raise UserError(
                argument, got="a float model", expected="what quantize or open_checkpoint returns"
            )
        if not isinstance(one, QuantizedModel):
            remedy = (
                "give them one by one: ditq.compare(model, *models)"
                if isinstance(one, list | tuple)
                else "open a checkpoint with ditq.open_checkpoint"
            )
            raise refused(argument, one, "quantized models", remedy)
    return given


@checked_arguments(model=float_model, quantized=_opened)
def compare(
    model: "Model | TextToImage",
    *quantized: QuantizedModel,
    prompts: str | Sequence[str] | None = None,
    count: int = 8,
    seed: int = FIRST_SEED,
    steps: int | None = None,
    guidance: float | None = None,
    size: int | tuple[int, int] | None = None,
    batch_size: int = 4,
    work: str | Path | None = None,
) -> Comparison:
    """Draws the same prompts and seeds with the float model and with each quantized one, and scores the pairs.

    `prompts` None takes `count` of ditq's own, which no calibration uses. In a folder `work` finished pictures are kept
    for the next call. Raises UserError for quantized models of another model, and for a folder with other files.
    """
    check_own("work", work, "ditq.compare", f"{FLOAT}/plan.json")
    inner = inner_of(model)
    asked = listed(prompts) if prompts is not None else evaluation_prompts(inner.name, count)
    variants = [float_variant(inner)]
    for one in quantized:
        name = _name(one, [variant.name for variant in variants])
        variants.append(quantized_variant(name, inner, one.checkpoint, one.activations))
    settings = settings_from(inner, steps, guidance, size)
    with ExitStack() as stack:
        place = Path(work or stack.enter_context(TemporaryDirectory(prefix="ditq-")))
        bar = stack.enter_context(Progress((len(variants) + 1) * len(asked), "picture", "comparison"))
        seeds = [seed + i for i in range(len(asked))]
        report = evaluate(inner, variants, asked, seeds, settings, place, batch_size, on_picture=bar.advance)
        shown = list(range(min(SHOWN, len(asked))))
        names = [FLOAT, *(variant.name for variant in report.variants)]
        pictures = {name: read_drawn(place, name).pictures(shown) for name in names}
    return Comparison(report, pictures)


def _name(model: QuantizedModel, taken: Sequence[str]) -> str:
    """The model's recipe and bits, and a number where another has the same."""
    recipe = model.checkpoint.meta.get("recipe", "")
    name = f"{recipe}, {model.label}" if recipe else model.label
    again = sum(other == name or other.startswith(f"{name} (") for other in taken)
    return f"{name} ({again + 1})" if again else name
