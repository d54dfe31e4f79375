"""Same-seed pictures side by side, and how their scores spread."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ditq.plots.style import BLUE, GREY, TIMESTEP, VERMILLION, figure, tidy

INCH = 1.32
"""Side of a picture in the grid: 200 of its dots."""


def picture_grid(
    columns: Mapping[str, UInt8[np.ndarray, "prompts height width 3"]],
    prompts: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    unit: str = "dB",
) -> Figure:
    """One row per prompt, one column per variant, the score of each picture under it.

    The first of `columns` is the reference and has no score.
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
            told = f"{scores[name][row]:.1f} {unit}" if name in scores else " "
            axis.set_xlabel(told, fontsize=8, labelpad=2, color="#333333")
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


def errors_before_and_after(
    conclusion: str,
    before: Mapping[str, float],
    after: Mapping[str, float],
    names: tuple[str, str] = ("rounding to nearest", "AdaRound"),
) -> Figure:
    """Relative output error of each block, with plain rounding and with the method: a line between the two."""
    made = figure(conclusion, height=1.5 + 0.3 * len(before))
    axis = made.subplots()
    rows = np.arange(len(before))
    left, right = (np.array([table[name] for name in before]) for table in (before, after))
    axis.hlines(rows, left, right, color="#bbbbbb", linewidth=2.5, zorder=1)
    axis.scatter(left, rows, color=GREY, s=42, label=names[0], zorder=2)
    axis.scatter(right, rows, color=BLUE, s=42, label=names[1], zorder=3)
    for row, (one, other) in enumerate(zip(left, right, strict=True)):
        if one > 0:
            axis.annotate(
                f"{other / one - 1:+.0%}",
                (max(one, other), row),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=VERMILLION if other > one else "#333333",
            )
    axis.set_yticks(rows, list(before))
    axis.set_ylim(len(before) - 0.4, -0.6)
    axis.set_xlim(0, 1.12 * max(left.max(), right.max()))
    tidy(axis, xlabel="mean squared error of the block's output, relative to its mean square")
    axis.grid(axis="y", visible=False)
    made.legend(loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return made


def bits_heatmap(
    conclusion: str,
    bits: Float[np.ndarray, "layers steps"],
    layers: Sequence[str],
    timesteps: Sequence[float],
) -> Figure:
    """Bits of every layer's input at every timestep, a colour for each number of bits that occurs."""
    made = figure(conclusion, height=min(14.0, max(3.2, 1.6 + 0.2 * len(layers))))
    axis = made.subplots()
    levels = sorted({int(value) for value in np.unique(bits)})
    palette = {4: "#2b5c8a", 6: "#7fb3d5", 8: "#f2c14e", 16: "#c8553d"}
    spare = ["#44aa99", "#882255", "#999933", "#aa4499", "#117733"]
    colours = [palette.get(level, spare[i % len(spare)]) for i, level in enumerate(levels)]
    indices = np.searchsorted(levels, bits)
    axis.imshow(
        indices,
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(levels) - 0.5,
    )
    every = max(1, -(-len(timesteps) // 13))
    axis.set_xticks(range(0, len(timesteps), every), [f"{t:.0f}" for t in timesteps[::every]])
    axis.set_xlabel(TIMESTEP)
    axis.set_yticks(range(len(layers)), list(layers), fontsize=8 if len(layers) <= 60 else 5)
    handles = [
        axis.scatter([], [], marker="s", s=70, color=colour, label=f"A{level}")
        for colour, level in zip(colours, levels, strict=True)
    ]
    made.legend(handles=handles, loc="outside lower right", ncols=len(levels), frameon=False, fontsize=9)
    return made


def _strip(axis: Axes, row: int, values: Float[np.ndarray, "pictures"]) -> None:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    # Spread evenly over the row's height in the order of the pictures: the same drawing in every run.
    offsets = 0.28 * (2 * ((np.arange(len(values)) * 0.618034) % 1) - 1)
    axis.scatter(values, row + offsets, s=9, color=BLUE, alpha=0.28, linewidths=0)
    axis.hlines(row, low, high, color=BLUE, linewidth=3.5)
    axis.scatter([middle], [row], s=46, color="white", edgecolors=BLUE, linewidths=2, zorder=3)
    axis.annotate(
        f"{middle:.1f}", (middle, row), xytext=(0, -13), textcoords="offset points", ha="center", fontsize=8
    )
