"""Same-seed pictures side by side, and how their scores are distributed."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ditq.plots.captions import score_caption
from ditq.plots.style import BLUE, GREY, figure, tidy

INCH = 1.32
"""Side of a picture in the grid: about 200 pixels."""


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
    lines = max(name.count("\n") for name in names) + 1
    left = 1.25
    size = (left + INCH * len(columns) + 0.1, 0.17 * lines + 0.1 + (INCH + 0.2) * len(prompts))
    spacing = ConstrainedLayoutEngine(w_pad=0.015, h_pad=0.012, wspace=0, hspace=0)
    made = Figure(figsize=size, dpi=150, layout=spacing)
    axes = made.subplots(len(prompts), len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        for row in range(len(prompts)):
            axis = axes[row, column]
            axis.imshow(pictures[row], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            caption = score_caption(scores[name][row], unit) if name in scores else " "
            axis.set_xlabel(caption, fontsize=8, labelpad=2, color="#333333")
            if row == 0:
                axis.set_title(names[column], fontsize=8.5, fontweight="bold", va="bottom")
    for row, prompt in enumerate(prompts):
        axes[row, 0].set_ylabel(
            textwrap.fill(prompt, 15), fontsize=8, rotation=0, ha="right", va="center", labelpad=6
        )
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
