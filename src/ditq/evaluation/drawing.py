"""Variants of a model drawn from the same prompts and seeds, each finished batch kept on disk."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ditq.core import plan
from ditq.core.errors import UserError
from ditq.core.files import read_npz, write_npz
from ditq.evaluation.metrics import METRICS, Metric, Samples
from ditq.evaluation.report import EvalReport, VariantReport
from ditq.evaluation.variants import Variant
from ditq.models.base import Conditioning, TextToImage
from ditq.sampling.generate import Settings, denoised

FLOOR = "float, other seeds"
OTHER_SEEDS = 1_000_000
"""Added to each seed for the floor: how far apart two pictures are that the model itself holds to be as good."""


@dataclass(frozen=True)
class Drawn:
    """What a variant drew, and what that took."""

    samples: Samples
    seconds_per_step: float
    """Median over the denoise steps, per picture, guidance included."""
    peak_memory: int
    """Bytes that MLX held at most while drawing, the float weights that a variant was made from included."""


def evaluate(
    model: TextToImage,
    variants: Sequence[Variant],
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    batch_size: int = 1,
    metrics: Sequence[Metric] = METRICS,
    on_picture: Callable[[int], None] = lambda count: None,
) -> EvalReport:
    """How far each variant's pictures are from those of `variants[0]`, the reference, at the same prompts and seeds.

    The reference is drawn once more from other seeds, as the floor: a variant that is nearer than that has moved the
    pictures less than a seed does. Finished batches lie in `folder/<variant>/`, and a batch that is there is not drawn
    again; `folder` belongs to one set of prompts, seeds and settings. `on_picture(n)` reports n more pictures. Raises
    UserError when a variant's folder was begun with something else.
    """
    names = [variant.name for variant in variants]
    if len({variant.slug for variant in variants}) < len(names):
        raise UserError("variants", got=f"a name twice among {', '.join(names)}", expected="different names")
    if len(prompts) != len(seeds) or not prompts:
        raise UserError(
            "evaluation", got=f"{len(prompts)} prompts, {len(seeds)} seeds", expected="a seed each"
        )
    encoded = Encoded(model, [*prompts, settings.negative])
    elsewhere = [seed + OTHER_SEEDS for seed in seeds]
    floor = Variant(FLOOR, variants[0].opened, variants[0].fingerprint, variants[0].size)
    reports, reference = [], None
    for variant, own_seeds in [(variants[0], seeds), (floor, elsewhere), *((v, seeds) for v in variants[1:])]:
        run = draw(encoded, variant, prompts, own_seeds, settings, folder, batch_size, on_picture)
        reference = reference or run.samples
        scores = {metric.name: metric(reference, run.samples).tolist() for metric in metrics}
        reports.append(
            VariantReport(variant.name, variant.size, run.seconds_per_step, run.peak_memory, scores)
        )
    units = {metric.name: metric.unit for metric in metrics}
    return EvalReport(
        model.name, asdict(settings), list(prompts), list(seeds), units, reports[0], reports[1], reports[2:]
    )


def draw(
    model: TextToImage,
    variant: Variant,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: Settings,
    folder: Path,
    batch_size: int,
    on_picture: Callable[[int], None] = lambda count: None,
) -> Drawn:
    """The variant's pictures: those of finished batches from disk, the rest drawn and kept."""
    own = folder / variant.slug
    asked = {
        "model": model.name,
        "variant": variant.name,
        "fingerprint": variant.fingerprint,
        "prompts": list(prompts),
        "seeds": list(seeds),
        "settings": asdict(settings),
        "batch_size": batch_size,
    }
    plan.begin(own / "plan.json", asked, resume=True)
    starts = range(0, len(prompts), batch_size)
    todo = [start for start in starts if not _part(own, start).exists()]
    on_picture(sum(len(prompts[start : start + batch_size]) for start in starts if start not in todo))
    if todo:
        with variant.opened(model) as opened:
            for start in todo:
                rows = slice(start, start + batch_size)
                _draw_batch(opened, prompts[rows], seeds[rows], settings, _part(own, start))
                on_picture(len(prompts[rows]))
    parts = [read_npz(_part(own, start)) for start in starts]
    pictures, latents, seconds = (
        np.concatenate([part[name] for part in parts]) for name in ("pictures", "latents", "seconds")
    )
    peak = max(int(part["peak_memory"]) for part in parts)
    return Drawn(Samples(list(prompts), pictures, latents), float(np.median(seconds)), peak)


def _draw_batch(
    model: TextToImage, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, path: Path
) -> None:
    mx.reset_peak_memory()
    ticks = [time.perf_counter()]
    batches = denoised(
        model, prompts, seeds, settings, len(prompts), lambda: ticks.append(time.perf_counter())
    )
    latents = mx.concatenate(list(batches))
    peak = mx.get_peak_memory()
    part = {
        "pictures": np.array(model.decode(latents)),
        "latents": np.array(latents.astype(mx.float32)),
        "seconds": np.diff(ticks)[-settings.steps + 1 :] / len(prompts),  # the first step prepares, too
        "peak_memory": np.array(peak),
    }
    write_npz(path, part)


def _part(folder: Path, start: int) -> Path:
    return folder / f"{start:05d}.npz"


class Encoded:
    """`model` with the conditioning of these prompts at hand, so that text encoders are loaded once for all variants.

    Implements `ditq.models.TextToImage`.
    """

    def __init__(self, model: TextToImage, prompts: Sequence[str]):
        self._model, self._prompts = model, list(dict.fromkeys(prompts))
        self._conditioning: Conditioning | None = None
        self.name, self.config, self.defaults = model.name, model.config, model.defaults
        self.factor, self.text_tokens = model.factor, model.text_tokens
        self.transformer, self.decode = model.transformer, model.decode

    def encode(self, prompts: list[str]) -> Conditioning:
        """The conditioning of the prompts; all are encoded when the first are asked for."""
        if self._conditioning is None:
            self._conditioning = self._model.encode(self._prompts)
        return self._conditioning.rows([self._prompts.index(prompt) for prompt in prompts])
