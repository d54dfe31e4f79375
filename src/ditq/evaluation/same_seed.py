"""Same-seed evaluation: every variant drawn and scored against the float model's pictures, batch by batch."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ditq.core.errors import UserError
from ditq.evaluation.drawing import Drawn, draw
from ditq.evaluation.metrics import DEFAULT_METRICS, Metric, metrics_named
from ditq.evaluation.report import EvalReport, VariantReport, metric_facts
from ditq.evaluation.variants import Variant
from ditq.models.base import Conditioning, Prediction, TextToImage
from ditq.sampling.generate import Settings

FLOOR = "float, other seeds"
OTHER_SEEDS = 1_000_000
"""Added to each seed for the floor: the distance between two pictures that the model itself holds to be as good."""


def evaluate(
    model: TextToImage,
    variants: Sequence[Variant],
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    batch_size: int = 1,
    metrics: Sequence[str] = DEFAULT_METRICS,
    on_picture: Callable[[int], None] = lambda count: None,
) -> EvalReport:
    """How far each variant's pictures are from those of `variants[0]`, the reference, at the same prompts and seeds.

    `metrics` are names of `METRICS`. The reference is drawn once more from other seeds, as the floor: a variant that is
    nearer than that has moved the pictures less than another seed does. Finished batches lie in `folder/<variant>/` and
    are not drawn again; `folder` belongs to one set of prompts, seeds and settings. At most one batch of each of two
    variants is in memory. `on_picture(n)` reports n more pictures. Raises UserError when a variant's folder was begun
    with something else.
    """
    built = metrics_named(metrics)
    _check(variants, prompts, seeds)
    encoded = Encoded(model, [*prompts, settings.negative])
    elsewhere = [seed + OTHER_SEEDS for seed in seeds]
    floor = Variant(FLOOR, variants[0].opened, variants[0].fingerprint, variants[0].size)
    reports: list[VariantReport] = []
    reference = None
    for variant, own_seeds in [(variants[0], seeds), (floor, elsewhere), *((v, seeds) for v in variants[1:])]:
        drawn = draw(encoded, variant, prompts, own_seeds, settings, folder, batch_size, on_picture)
        reference = reference or drawn
        scores = score(built, reference, drawn)
        reports.append(
            VariantReport(variant.name, variant.size, drawn.seconds_per_step, drawn.peak_memory, scores)
        )
    return EvalReport(
        model=model.name,
        settings=settings.recorded(),
        prompts=list(prompts),
        seeds=list(seeds),
        reference=reports[0],
        floor=reports[1],
        variants=reports[2:],
        **metric_facts(built),
    )


def score(metrics: Sequence[Metric], reference: Drawn, candidate: Drawn) -> dict[str, list[float]]:
    """The values of every metric for a variant's pictures, which are read once, batch by batch."""
    for metric in metrics:
        metric.begin()
    for one, other in zip(reference.batches(), candidate.batches(), strict=True):
        for metric in metrics:
            metric.add(one, other)
    return {metric.name: metric.value().tolist() for metric in metrics}


class Encoded:
    """`model` with the conditioning of these prompts at hand, so that text encoders are loaded once for all variants.

    Implements `ditq.models.TextToImage`.
    """

    def __init__(self, model: TextToImage, prompts: Sequence[str]):
        self._model, self._prompts = model, list(dict.fromkeys(prompts))
        self._conditioning: Conditioning | None = None
        self.name, self.defaults, self.geometry = model.name, model.defaults, model.geometry
        self.prediction: Prediction = model.prediction
        self.noise, self.dtype = model.noise, model.dtype
        self.network, self.skeleton, self.decode = model.network, model.skeleton, model.decode

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts; the first call encodes all of them."""
        if self._conditioning is None:
            self._conditioning = self._model.encode(self._prompts)
        return self._conditioning.rows([self._prompts.index(prompt) for prompt in prompts])


def _check(variants: Sequence[Variant], prompts: Sequence[str], seeds: Sequence[int]) -> None:
    names = [variant.name for variant in variants]
    if len({variant.slug for variant in variants}) < len(names):
        raise UserError("variants", got=f"a name twice among {', '.join(names)}", expected="different names")
    if len(prompts) != len(seeds) or not prompts:
        raise UserError(
            "evaluation", got=f"{len(prompts)} prompts, {len(seeds)} seeds", expected="a seed each"
        )
