"""Predicted against measured damage of every layer's input."""

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from ditq.plots.style import BLUE, GREY, VERMILLION, figure, tidy


def damage_figure(
    conclusion: str,
    measured: Float[np.ndarray, "inputs"],
    predicted: Float[np.ndarray, "inputs"],
    output_errors: Float[np.ndarray, "inputs"],
) -> Figure:
    """Over the measured error of the final latents: the predicted one, and the error of the layer's output."""
    made = figure(conclusion)
    left, right = made.subplots(1, 2)
    ends = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]
    left.plot(ends, ends, color=GREY, linewidth=1, label="equal")
    left.plot(measured, predicted, "o", color=BLUE, markersize=5)
    left.legend(frameon=False)
    right.plot(measured, output_errors, "o", color=VERMILLION, markersize=5)
    named = "measured mean squared error of the final latents"
    tidy(left, xlabel=named, ylabel="predicted", xscale="log", yscale="log")
    tidy(
        right, xlabel=named, ylabel="squared relative error of the layer's output", xscale="log", yscale="log"
    )
    return made
