"""The result of an evaluation: every score of every picture, their summaries, and the report as a JSON file."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.core.files import read_stored_json, write_json
from ditq.evaluation.metrics import Better, Metric
from ditq.evaluation.variants import Size

KIND, VERSION = "ditq.evaluation", 1
MADE_BY = "an evaluation"


@dataclass(frozen=True)
class Spread:
    """How a score is distributed over the pictures."""

    median: float
    low: float
    """The lower quartile."""
    high: float
    """The upper quartile."""
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float] | Float[np.ndarray, "values"]) -> "Spread":
        """The spread of these values; `std` is the sample's standard deviation, 0 for a single value."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        std = np.std(values, ddof=1) if len(values) > 1 else 0.0
        return cls(float(median), float(low), float(high), float(np.mean(values)), float(std))


@dataclass(frozen=True)
class VariantReport:
    """The size, speed and memory of one variant, and how its pictures score against the reference's."""

    name: str
    size: Size
    seconds_per_step: float
    peak_memory: int
    scores: dict[str, list[float]]
    """By metric: one value per picture, or a single one for all pictures."""

    def spread(self, metric: str) -> Spread:
        """The spread of one metric over the pictures."""
        return Spread.of(self.scores[metric])


@dataclass(frozen=True)
class Gain:
    """How much better one variant scores than another on the same pictures."""

    spread: Spread
    """Of the differences, in the metric's unit; positive where the first variant is better."""
    wins: int
    """Pictures on which the first variant is better."""
    pictures: int


@dataclass(frozen=True)
class EvalReport:
    """Variants of one model against its reference."""

    model: str
    settings: dict[str, Any]
    prompts: list[str]
    seeds: list[int]
    units: dict[str, str]
    """By metric, in the order of the table."""
    reference: VariantReport
    """The float model, scored against itself."""
    floor: VariantReport
    """The reference drawn from other seeds."""
    variants: list[VariantReport]
    better: dict[str, Better]
    """By metric: which values are good."""
    titles: dict[str, str]
    """By metric: what tables and sentences call it."""
    capped: list[str]
    """Metrics for which identical pictures score infinitely well: their values hold a finite stand-in."""

    def variant(self, name: str) -> VariantReport:
        """The variant of this name. Raises KeyError when there is none."""
        return {one.name: one for one in [self.reference, self.floor, *self.variants]}[name]

    def gain(self, name: str, over: str, metric: str = "psnr") -> Gain:
        """How much better `name` scores than `over`, picture by picture, in the metric's unit."""
        first, second = (np.array(self.variant(one).scores[metric]) for one in (name, over))
        better = first - second if self.better[metric] == "higher" else second - first
        return Gain(Spread.of(better), int((better > 0).sum()), len(better))

    def shown_scores(self, name: str, metric: str = "psnr") -> list[float]:
        """The scores of a variant, infinite for a picture that is identical to the reference's.

        Differs from the stored scores for `capped` metrics alone.
        """
        scores = self.variant(name).scores[metric]
        if metric not in self.capped:
            return scores
        own = self.reference.scores[metric]
        return [np.inf if value >= best else value for value, best in zip(scores, own, strict=True)]

    def median(self, name: str, metric: str) -> float:
        """The median of a variant's `shown_scores`: infinite where most pictures are identical to the reference's."""
        shown = self.shown_scores(name, metric)
        # the mean of the two in the middle is not taken where one may be infinite
        return float(np.quantile(shown, 0.5, method="lower") if np.isinf(shown).any() else np.median(shown))

    def as_json(self) -> dict[str, Any]:
        """The report with its summaries, as JSON holds it."""
        value = {"kind": KIND, "version": VERSION, **asdict(self)}
        for entry in [value["reference"], value["floor"], *value["variants"]]:
            entry["summary"] = {name: asdict(Spread.of(scores)) for name, scores in entry["scores"].items()}
        return value


def metric_facts(metrics: Sequence[Metric]) -> dict[str, Any]:
    """What a report keeps of its metrics: the fields `units`, `better`, `titles` and `capped`."""
    return {
        "units": {metric.name: metric.unit for metric in metrics},
        "better": {metric.name: metric.better for metric in metrics},
        "titles": {metric.name: metric.title for metric in metrics},
        "capped": [metric.name for metric in metrics if metric.capped],
    }


def write_report(path: Path, report: EvalReport) -> None:
    """Writes the report as JSON."""
    write_json(path, report.as_json())


def read_report(path: Path) -> EvalReport:
    """The report in a file. Raises UserError for another kind of file, and for one with missing or unknown fields.

    Earlier reports do not say which direction of a metric is better; they hold PSNR, SSIM and latent errors alone.
    """
    value = read_stored_json(path, KIND, VERSION, MADE_BY)
    plain = ("model", "settings", "prompts", "seeds", "units")
    try:
        units = value["units"]
        return EvalReport(
            **{name: value[name] for name in plain},
            reference=_variant(value["reference"]),
            floor=_variant(value["floor"]),
            variants=[_variant(entry) for entry in value["variants"]],
            better=value.get("better") or {name: _EARLIER[name][0] for name in units},
            titles=value.get("titles") or {name: _EARLIER[name][1] for name in units},
            capped=value["capped"] if "capped" in value else [name for name in units if name == "psnr"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            str(path), got=f"a report with a missing or unknown field ({error})", expected=f"{KIND} {VERSION}"
        ) from error


_EARLIER: dict[str, tuple[Better, str]] = {
    "psnr": ("higher", "PSNR"),
    "latent_error": ("lower", "latent error"),
    "ssim": ("higher", "SSIM"),
}
"""Direction and title of the metrics of earlier reports."""


def _variant(value: dict[str, Any]) -> VariantReport:
    plain = {name: value[name] for name in ("name", "seconds_per_step", "peak_memory", "scores")}
    return VariantReport(size=Size(**value["size"]), **plain)
