"""The result of an evaluation: every score of every picture, summaries of them, JSON and Markdown."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ditq.core.errors import UserError
from ditq.core.files import read_json, write_json
from ditq.evaluation.variants import Size

KIND, VERSION = "ditq.evaluation", 1


@dataclass(frozen=True)
class Spread:
    """How a score lies over the pictures."""

    median: float
    low: float
    """The quartile below the median."""
    high: float
    mean: float
    std: float

    @classmethod
    def of(cls, values: Sequence[float] | Float[np.ndarray, "values"]) -> "Spread":
        """The spread of these values; `std` is that of the sample, 0 for a single value."""
        low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
        std = np.std(values, ddof=1) if len(values) > 1 else 0.0
        return cls(float(median), float(low), float(high), float(np.mean(values)), float(std))


@dataclass(frozen=True)
class VariantReport:
    """What one variant costs and how its pictures score against the reference's."""

    name: str
    size: Size
    seconds_per_step: float
    peak_memory: int
    scores: dict[str, list[float]]
    """By metric: a value per picture, or one for all."""

    def spread(self, metric: str) -> Spread:
        """The spread of one metric over the pictures."""
        return Spread.of(self.scores[metric])


@dataclass(frozen=True)
class EvalReport:
    """Variants of one model against its reference."""

    model: str
    settings: dict[str, Any]
    prompts: list[str]
    seeds: list[int]
    units: dict[str, str]
    """By metric."""
    reference: VariantReport
    floor: VariantReport
    """The reference drawn from other seeds."""
    variants: list[VariantReport]

    def variant(self, name: str) -> VariantReport:
        """The variant of this name. Raises KeyError when there is none."""
        return {one.name: one for one in [self.reference, self.floor, *self.variants]}[name]

    def gain(self, name: str, over: str, metric: str = "psnr") -> "Gain":
        """How much better `name` scores than `over`, picture by picture, in the metric's unit."""
        pairs = np.array(self.variant(name).scores[metric]) - np.array(self.variant(over).scores[metric])
        return Gain(Spread.of(pairs), int((pairs > 0).sum()), len(pairs))

    def as_json(self) -> dict[str, Any]:
        """The report with its summaries, as JSON holds it."""
        value = {"kind": KIND, "version": VERSION, **asdict(self)}
        for entry in [value["reference"], value["floor"], *value["variants"]]:
            entry["summary"] = {name: asdict(Spread.of(scores)) for name, scores in entry["scores"].items()}
        return value


@dataclass(frozen=True)
class Gain:
    """Differences of a score between two variants over the same pictures."""

    spread: Spread
    wins: int
    """Pictures on which the first scored higher."""
    pictures: int


def write_report(path: Path, report: EvalReport) -> None:
    """Writes the report as JSON."""
    write_json(path, report.as_json())


def read_report(path: Path) -> EvalReport:
    """The report in a file. Raises UserError for another kind of file."""
    value = read_json(path)
    found = (value.get("kind"), value.get("version")) if isinstance(value, dict) else (None, None)
    if found != (KIND, VERSION):
        raise UserError(str(path), got=f"{found[0]} version {found[1]}", expected=f"{KIND} version {VERSION}")
    plain = {name: value[name] for name in ("model", "settings", "prompts", "seeds", "units")}
    return EvalReport(
        **plain,
        reference=_variant(value["reference"]),
        floor=_variant(value["floor"]),
        variants=[_variant(entry) for entry in value["variants"]],
    )


def rows(report: EvalReport) -> list[list[str]]:
    """A table of the report, its heading first: a row per variant, then the floor."""
    metrics = list(report.units)
    heading = ["variant", *(_heading(name, report.units[name]) for name in metrics)]
    table = [[*heading, "bits per weight", "transformer MB", "of 16 bit", "peak MB", "ms per step"]]
    whole = report.reference.size.bytes
    for entry in [*report.variants, report.floor]:
        scores = [_told(entry.spread(name), len(entry.scores[name])) for name in metrics]
        size, step = entry.size, f"{1000 * entry.seconds_per_step:.1f}"
        mb, peak = f"{size.bytes / 1e6:.2f}", f"{entry.peak_memory / 1e6:.0f}"
        share = f"{size.bytes / whole:.0%}"
        table.append([entry.name, *scores, f"{size.bits_per_weight:.2f}", mb, share, peak, step])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, numbers to the right."""
    heading, *body = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([heading, "|---" + "|--:" * (len(table[0]) - 1) + "|", *body])


def _heading(metric: str, unit: str) -> str:
    name = {"psnr": "PSNR", "ssim": "SSIM", "latent_error": "latent error"}.get(metric, metric)
    return f"{name}, {unit}" if unit else name


def _told(spread: Spread, count: int) -> str:
    """Median and quartiles, three digits of them."""
    digits = 1 if spread.median >= 10 else 2 if spread.median >= 1 else 4
    if count == 1:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"


def _variant(value: dict[str, Any]) -> VariantReport:
    rest = {name: value[name] for name in ("name", "seconds_per_step", "peak_memory", "scores")}
    return VariantReport(size=Size(**value["size"]), **rest)
