"""How AdaRound went: each block's loss on its way, and its error beside that of rounding."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ditq.plots.style import BLUE, GREY, ORANGE, VERMILLION, figure, ramp, tidy

MANY = 6
"""Blocks up to which each curve has its name at its end; beyond, colours run from the first to the last block."""


def loss_curves(config: Mapping[str, Any]) -> Figure:
    """One curve per block: the error of its batches in units of rounding's, on a log scale, over the iterations."""
    blocks = [told for told in config["per_block"] if told["losses"]]
    iterations, warmup = config["iterations"], config["recipe"].get("warmup", 0.0)
    lost = np.mean([told["error"] / told["error_rounding"] for told in blocks]) if blocks else 1.0
    made = figure(
        f"Learned rounding leaves {lost:.0%} of the error of rounding to nearest, on the mean of the blocks"
    )
    axis = made.subplots()
    colours = ramp(len(blocks))
    for told, colour in zip(blocks, colours, strict=True):
        losses = np.array(told["losses"])
        places = (np.arange(len(losses)) + 0.5) * iterations / len(losses)
        axis.plot(places, losses, color=colour, linewidth=0.8, alpha=0.3)
        width = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
        axis.plot(
            places[width // 2 : width // 2 + len(smooth)],
            smooth,
            color=colour,
            label=f"block {told['block']}",
        )
    axis.axvline(warmup * iterations, color=GREY, linewidth=1, linestyle=":")
    axis.annotate(
        "from here on weights settle on codes",
        (warmup * iterations, 0.99),
        xycoords=("data", "axes fraction"),
        xytext=(5, 0),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color=GREY,
    )
    axis.set_yscale("log")
    tidy(axis, xlabel="iteration", ylabel="error of a batch, rounding to nearest = 1")
    if len(blocks) <= MANY:
        axis.legend(frameon=False)
    else:
        ends = axis.get_lines()[1], axis.get_lines()[2 * len(blocks) - 1]
        axis.legend(handles=ends, frameon=False)
    return made


def block_errors(config: Mapping[str, Any]) -> Figure:
    """Two bars per block: the relative error of rounding to nearest, and what was shipped, with their ratio."""
    blocks = config["per_block"]
    names = [str(told["block"]) for told in blocks]
    before = np.array([told["error_rounding"] for told in blocks])
    after = np.array([told["error"] for told in blocks])
    won = sum(not told["kept_rounding"] for told in blocks)
    grid = f"W{config['bits_w']}A{config['bits_a']}"
    made = figure(
        f"{grid}: learned rounding wins on {won} of {len(blocks)} blocks, on rows it was not optimised on"
    )
    axis = made.subplots()
    places = np.arange(len(blocks))
    axis.bar(places - 0.2, before, 0.38, color=GREY, label="rounding to nearest")
    colours = [ORANGE if told["kept_rounding"] else BLUE for told in blocks]
    axis.bar(places + 0.2, after, 0.38, color=colours, label="shipped: learned rounding")
    if won < len(blocks):
        axis.bar([np.nan], [np.nan], color=ORANGE, label="shipped: rounding, which was no worse")
    for place, one, other in zip(places, before, after, strict=True):
        size = 9 if len(blocks) <= 12 else 7
        axis.text(
            place + 0.2,
            other,
            f"{other / one:.0%}",
            ha="center",
            va="bottom",
            fontsize=size,
            color=VERMILLION,
        )
    axis.set_xticks(places, names)
    tidy(axis, xlabel="block", ylabel="squared error of the block's output by its mean square")
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 1.2 * max(before.max(), after.max()))
    axis.legend(frameon=False)
    return made
