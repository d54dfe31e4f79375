"""A verdict as a table for the console, the summary and the page."""

from typing import Any

from ditq.diagnostics.judge import FINDINGS, times

LEGEND = (
    "unused codes: of a symmetric grid; drift: loudest over quietest timestep; outliers: widest over median channel. "
    "* mild, ** strong"
)
HEADING = ["layer", "min", "max", "mean", "below 0", "unused codes", "drift", "outliers", "wide channels"]


def summary_rows(found: dict[str, Any]) -> list[list[str]]:
    """The table as text, heading first: one row per layer."""
    return [HEADING, *(_row(entry) for entry in found["layers"].values())]


def _row(entry: dict[str, Any]) -> list[str]:
    return [
        entry["label"],
        f"{entry['min']:.3f}",
        f"{entry['max']:.2f}",
        f"{entry['mean']:.3f}",
        f"{entry['negative_fraction']:.0%}",
        *(_marked(name, entry[name]) for name in FINDINGS),
        f"{len(entry['outliers']['channels'])} of {entry['channels']}",
    ]


def _marked(name: str, finding: dict[str, Any]) -> str:
    """The strength, with one mark for mild and two for strong."""
    mark = {"none": "  ", "mild": "* ", "strong": "**"}[finding["level"]]
    if finding["strength"] is None:
        return f"inf {mark}"
    told = f"{finding['strength']:.0%}" if name == "asymmetry" else f"{times(finding['strength'])}x"
    return f"{told} {mark}"
