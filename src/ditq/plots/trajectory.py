"""The latents along denoising trajectories, decoded."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure


def trajectory_figure(
    pictures: UInt8[np.ndarray, "trajectories steps height width 3"],
    sigmas: Sequence[float],
    prompts: Sequence[str],
) -> Figure:
    """One row per trajectory, one column per step: decoded latents, noise levels above, prompts at the left."""
    rows, columns = pictures.shape[:2]
    figure = Figure(figsize=(1.25 * columns + 1.3, 1.25 * rows + 0.6), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, prompt in enumerate(prompts):
        for column, sigma in enumerate(sigmas):
            axis = axes[row, column]
            axis.imshow(pictures[row, column], interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row == 0:
                axis.set_title(f"$\\sigma$ = {sigma:.2f}", fontsize=9)
        words = prompt.split()
        half = (len(words) + 1) // 2
        label = " ".join(words[:half]) + "\n" + " ".join(words[half:])
        axes[row, 0].set_ylabel(label, fontsize=8, rotation=0, ha="right", va="center", labelpad=6)
    return figure
