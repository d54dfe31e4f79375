"""Same-seed pictures side by side, and how their scores are distributed."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ditq.plots.captions import score_caption
from ditq.plots.style import BLUE, GREY, figure, tidy

INCH = 1.32
"""Side of a picture in the grid: about 200 pixels."""
PROMPT, CAPTION, HEADING_LINE, GAP = 1.3, 0.2, 0.15, 0.08
"""Inches beside and below a picture, of a line of the headings, and between pictures."""


def picture_grid(
    columns: Mapping[str, UInt8[np.ndarray, "prompts height width 3"]],
    prompts: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    unit: str = "dB",
) -> Figure:
    """One row per prompt, one column per variant, the score of each picture under it.

    Variants without scores, such as the reference, have nothing under their pictures. An infinite score is that of a
    picture identical to the reference's.
    """
    names = [textwrap.fill(name, 16) for name in columns]
    heading = HEADING_LINE * (max(name.count("\n") for name in names) + 1) + GAP
    width = PROMPT + (INCH + GAP) * len(columns)
    height = heading + (INCH + CAPTION) * len(prompts)
    made = Figure(figsize=(width, height), dpi=150)
    for row, prompt in enumerate(prompts):
        bottom = height - heading - (INCH + CAPTION) * row - INCH
        for column, (name, pictures) in enumerate(columns.items()):
            left = PROMPT + (INCH + GAP) * column
            axis = made.add_axes((left / width, bottom / height, INCH / width, INCH / height))
            axis.imshow(pictures[row], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if name in scores:
                caption = score_caption(scores[name][row], unit)
                axis.set_xlabel(caption, fontsize=8, labelpad=2, color="#333333")
            if row == 0:
                axis.set_title(names[column], fontsize=8.5, fontweight="bold", va="bottom", pad=4)
            if column == 0:
                told = textwrap.fill(prompt, 16, max_lines=10, placeholder=" ...")
                axis.set_ylabel(told, fontsize=8, rotation=0, ha="right", va="center", labelpad=5)
    return made


def scores_by_variant(
    conclusion: str,
    scores: Mapping[str, Sequence[float]],
    label: str,
    floor: Float[np.ndarray, "pictures"] | None = None,
    floor_label: str = "float model, other seeds",
) -> Figure:
    """Every picture's score as a dot, with the median and the quartiles of each variant.

    `floor` is drawn as a band between its quartiles.
    """
    made = figure(conclusion, height=1.3 + 0.42 * len(scores))
    axis = made.subplots()
    for row, values in enumerate(scores.values()):
        _strip(axis, row, np.asarray(values, float))
    if floor is not None:
        low, middle, high = np.quantile(floor, [0.25, 0.5, 0.75])
        axis.axvspan(low, high, color=GREY, alpha=0.15, linewidth=0)
        axis.axvline(middle, color=GREY, linewidth=1, label=f"{floor_label}: {middle:.1f}")
        made.legend(loc="outside lower right", frameon=False, fontsize=9)
    axis.set_yticks(range(len(scores)), list(scores))
    axis.set_ylim(len(scores) - 0.4, -0.6)
    tidy(axis, xlabel=f"{label}: a dot per picture, median and quartiles")
    axis.grid(axis="y", visible=False)
    return made


def _strip(axis: Axes, row: int, values: Float[np.ndarray, "pictures"]) -> None:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    # The dots are spread over the row's height by the golden ratio, not at random: every run draws the same figure.
    offsets = 0.28 * (2 * ((np.arange(len(values)) * 0.618034) % 1) - 1)
    axis.scatter(values, row + offsets, s=9, color=BLUE, alpha=0.28, linewidths=0)
    axis.hlines(row, low, high, color=BLUE, linewidth=3.5)
    axis.scatter([middle], [row], s=46, color="white", edgecolors=BLUE, linewidths=2, zorder=3)
    axis.annotate(
        f"{middle:.1f}", (middle, row), xytext=(0, -13), textcoords="offset points", ha="center", fontsize=8
    )
