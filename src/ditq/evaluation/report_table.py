"""A report as a table: one row per variant, medians and quartiles of every metric."""

from collections.abc import Sequence

import numpy as np

from ditq.evaluation.report import EvalReport, Spread

IDENTICAL = "identical"
"""What stands in place of an infinite score."""


def rows(report: EvalReport) -> list[list[str]]:
    """The table, its heading first: the float model against itself, every variant, then the floor."""
    metrics = list(report.units)
    heading = ["variant", *(heading_of(report, name) for name in metrics)]
    table = [[*heading, "bits per weight", "weights, MB", "of 16 bit", "peak MB", "ms per step"]]
    whole = report.reference.size.bytes
    for entry in [report.reference, *report.variants, report.floor]:
        scores = [_cell(report, entry.name, name) for name in metrics]
        size, step = entry.size, f"{1000 * entry.seconds_per_step:.1f}"
        mb, peak = f"{size.bytes / 1e6:.2f}", f"{entry.peak_memory / 1e6:.0f}"
        share = f"{size.bytes / whole:.0%}"
        table.append([entry.name, *scores, f"{size.bits_per_weight:.2f}", mb, share, peak, step])
    return table


def markdown(table: Sequence[Sequence[str]]) -> str:
    """A table as Markdown, numbers to the right."""
    heading, *body = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([heading, "|---" + "|--:" * (len(table[0]) - 1) + "|", *body])


def heading_of(report: EvalReport, metric: str) -> str:
    """A metric's title with its unit."""
    title, unit = report.titles[metric], report.units[metric]
    return f"{title}, {unit}" if unit else title


def digits_of(value: float) -> int:
    """Digits after the point, so that a score of this size has about three of them."""
    return 1 if value >= 10 else 2 if value >= 1 else 4


def _cell(report: EvalReport, name: str, metric: str) -> str:
    """Median and quartiles, or one value where they are alike; "identical" in place of infinite scores."""
    scores = report.variant(name).scores[metric]
    spread, digits = Spread.of(scores), digits_of(Spread.of(scores).median)
    values = [spread.median, spread.low, spread.high]
    if not np.isfinite(shown := np.array(report.shown_scores(name, metric))).all():
        if not np.isfinite(shown).any():
            return IDENTICAL
        values = [float(np.quantile(shown, at, method="lower")) for at in (0.5, 0.25, 0.75)]
    median, low, high = (f"{value:.{digits}f}" if np.isfinite(value) else IDENTICAL for value in values)
    return median if low == high else f"{median} ({low} to {high})"
