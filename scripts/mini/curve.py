"""The training curve as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw(folder: Path) -> dict[str, float]:
    """The last logged step and loss; writes `curve.png`, loss and rate over the steps of `log.jsonl`."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    course = {line["step"]: line for line in lines}  # a resumed run repeats a few
    steps = sorted(course)
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    axes.plot(steps, [course[step]["loss"] for step in steps], color="#2066a8", linewidth=1)
    axes.set(xlabel="step", ylabel="loss (mean of 50 steps)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    rates = axes.twinx()
    rates.plot(steps, [course[step]["rate"] for step in steps], color="#c05020", linewidth=1, linestyle="--")
    rates.set(ylabel="learning rate (dashed)", ylim=(0, None))
    figure.savefig(folder / "curve.png", dpi=130)
    return {"steps": steps[-1], "loss": course[steps[-1]]["loss"]}
