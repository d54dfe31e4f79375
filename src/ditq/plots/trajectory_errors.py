"""Errors along the float model's trajectories: curves over the noise levels, and blocks and layers as heat maps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ditq.evaluation.trajectory_curves import Curves
from ditq.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, figure, heat, log_if_wide, tidy

COLOURS = (BLUE, ORANGE, GREEN, VERMILLION, GREY)
MARKERS = "osD^v"
MOST_LAYERS = 40
"""Rows of the heat map: the layers of largest error."""
AXIS = "noise level (sigma): noise on the left, picture on the right"


def error_curves(curves: Sequence[Curves]) -> Figure:
    """Each variant's error by noise level: of the prediction for the same latents, and of latents on its own path."""
    made = figure(curve_conclusion(curves), width=11, height=4.8)
    left, right = made.subplots(1, 2)
    for number, one in enumerate(curves):
        style = dict(
            color=COLOURS[number % len(COLOURS)],
            marker=MARKERS[number % len(MARKERS)],
            markersize=3.5,
            linewidth=1.6,
        )
        at = one.noise_levels
        left.plot(at, 100 * np.array(one.prediction), label=one.variant, **style)
        low, high = 100 * np.array(one.prediction_range).T
        left.fill_between(at, low, high, color=style["color"], alpha=0.12, linewidth=0)
        right.plot(at, 100 * np.array(one.latents), label=one.variant, **style)
    for axis, values in (
        (left, [one.prediction for one in curves]),
        (right, [one.latents for one in curves]),
    ):
        log_if_wide(axis, 100 * np.array([value for line in values for value in line]))
        tidy(axis, xlabel=AXIS, ylabel="relative error, %")
        axis.invert_xaxis()
    left.set_title("prediction, both models given the same latents", fontsize=10)
    right.set_title("latents, each model on its own trajectory", fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return made


def curve_conclusion(curves: Sequence[Curves]) -> str:
    """The sentence over the curves: the variant of least error, and where it is worst."""
    best = min(curves, key=lambda one: one.prediction_error)
    at = int(np.argmax(best.prediction))
    return (
        f"{best.variant}: the prediction is {100 * best.prediction_error:.2g} % off, at most "
        f"{100 * best.prediction[at]:.2g} % at noise level {best.noise_levels[at]:.2f}"
    )


def error_map(curves: Curves) -> Figure:
    """A row for each block and for the layers of largest error, a column for each noise level that was compared."""
    worst = curves.worst_layers[:MOST_LAYERS]
    blocks = [f"block {number}" for number in range(len(curves.blocks))]
    values = 100 * np.array([*curves.blocks, *(curves.layers[path] for path, _ in worst)])
    told = f"{curves.variant}: no layer is quantized"
    if worst:
        told = f"{curves.variant}: the largest error of a layer's output is {100 * worst[0][1]:.2g} %, of {worst[0][0]}"
    made = figure(told, width=11, height=min(12.0, max(3.2, 1.6 + 0.21 * len(values))))
    axis = made.subplots()
    levels = [curves.noise_levels[step] for step in curves.inner_steps]
    heat(made, axis, values, levels, "relative error of the output for the float model's input, %")
    axis.set_xticks(range(len(levels)), [f"{level:.2f}" for level in levels])
    axis.set_xlabel(AXIS)
    axis.set_yticks(range(len(values)), [*blocks, *(path for path, _ in worst)], fontsize=7)
    axis.axhline(len(blocks) - 0.5, color="white", linewidth=2)
    return made
