"""AdaRound's progress: the loss curve of each block, and its error beside that of round-to-nearest."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ditq.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, figure, ramp, tidy

MANY = 6
"""With more blocks than this, the legend names the first and the last alone; colours run from one to the other."""
KEPT = {
    "learned": (BLUE, "kept: learned rounding"),
    "start": (GREEN, "kept: GPTQ's codes, which learned rounding did not beat"),
    "rounding": (ORANGE, "kept: round-to-nearest, which neither beat"),
}
"""Colour and label of a block by what was kept of it."""


def loss_curves(config: Mapping[str, Any]) -> Figure:
    """One curve per block: the error of its batches relative to round-to-nearest, by iteration, on a log scale.

    Without iterations there is no curve, and the figure says so.
    """
    blocks = [report for report in config["per_block"] if report["losses"]]
    iterations, warmup = config["iterations"], config["recipe"].get("warmup", 0.0)
    if not blocks:
        return _nothing_learned(iterations)
    lost = np.mean([_left(report["error"], report["error_rounding"]) for report in blocks])
    made = figure(
        f"Learned rounding leaves {lost:.0%} of the error of round-to-nearest, averaged over the blocks"
    )
    axis = made.subplots()
    colours = ramp(len(blocks))
    for report, colour in zip(blocks, colours, strict=True):
        losses = np.array(report["losses"])
        places = (np.arange(len(losses)) + 0.5) * iterations / len(losses)
        axis.plot(places, losses, color=colour, linewidth=0.8, alpha=0.3)
        width = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axis.plot(
            places[width // 2 : width // 2 + len(smooth)],
            smooth,
            color=colour,
            label=f"block {report['block']}",
        )
    axis.axvline(warmup * iterations, color=GREY, linewidth=1, linestyle=":")
    axis.annotate(
        "regularisation starts: weights settle on codes",
        (warmup * iterations, 0.99),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=GREY,
    )
    axis.set_yscale("log")
    tidy(axis, xlabel="iteration", ylabel="error of a batch, round-to-nearest = 1")
    if len(blocks) <= MANY:
        axis.legend(frameon=False)
    else:
        ends = axis.get_lines()[1], axis.get_lines()[2 * len(blocks) - 1]
        axis.legend(handles=ends, frameon=False)
    return made


def _nothing_learned(iterations: int) -> Figure:
    """The figure of a run that optimised nothing."""
    made = figure("No block was optimised: there is no loss to draw", height=2.0)
    axis = made.subplots()
    axis.set_axis_off()
    text = f"{iterations} iterations were asked for, and no block has a loss"
    axis.text(0.5, 0.5, text, ha="center", va="center", color=GREY)
    return made


def kept_of(report: Mapping[str, Any]) -> str:
    """What a block's report kept: "learned", "start" (GPTQ's codes) or "rounding"."""
    return report.get("kept", "rounding" if report["kept_rounding"] else "learned")


def _left(error: float, rounding: float) -> float:
    """The part of rounding's error that is left; 1 where there was none."""
    return error / rounding if rounding > 0 else 1.0


def block_errors(config: Mapping[str, Any]) -> Figure:
    """Two bars per block: the relative error of round-to-nearest and that of the weights kept, with their ratio."""
    blocks = config["per_block"]
    names = [str(report["block"]) for report in blocks]
    before = np.array([report["error_rounding"] for report in blocks])
    after = np.array([report["error"] for report in blocks])
    kept = [kept_of(report) for report in blocks]
    won = len(kept) - kept.count("rounding")
    winner = "learned rounding, or GPTQ where it began," if "start" in kept else "learned rounding"
    grid = f"W{config['bits_w']}A{config['bits_a']}"
    made = figure(
        f"{grid}: {winner} beats round-to-nearest on {won} of {len(blocks)} blocks, on held-out rows"
    )
    axis = made.subplots()
    places = np.arange(len(blocks))
    axis.bar(places - 0.2, before, 0.38, color=GREY, label="round-to-nearest")
    axis.bar(places + 0.2, after, 0.38, color=[KEPT[name][0] for name in kept])
    for name, (colour, label) in KEPT.items():
        if name in kept:
            axis.bar([np.nan], [np.nan], color=colour, label=label)
    for place, one, other in zip(places, before, after, strict=True):
        size = 9 if len(blocks) <= 12 else 7
        axis.text(
            place + 0.2,
            other,
            f"{_left(other, one):.0%}",
            ha="center",
            va="bottom",
            fontsize=size,
            color=VERMILLION,
        )
    axis.set_xticks(places, names)
    tidy(axis, xlabel="block", ylabel="squared error of the block's output / its mean square")
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 1.3 * max(before.max(), after.max()) or 1)
    axis.legend(frameon=False)
    return made
