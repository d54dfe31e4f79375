"""What all diagnostic figures share: size, colours that colour-blind readers can tell apart, conclusions as titles.

Figures go to files, each with a canvas of its own: pyplot and its backend, which a notebook may have chosen, are not
touched.
"""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

BLUE, ORANGE, GREEN, VERMILLION, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#767676"
"""Of Okabe and Ito's palette."""
TIMESTEP = "timestep: noise on the left, picture on the right"
MARGIN = 0.012
"""Of a figure's width, beside its title."""
DECADE = 10.0
"""A range that spans more than this is drawn on a log scale."""


def figure(conclusion: str, width: float = 9.5, height: float = 5.2) -> Figure:
    """An empty figure that fits a laptop's screen, under the sentence that its reader should take away."""
    made = Figure(figsize=(width, height), dpi=100, layout="constrained")
    entitle(made, conclusion)
    return made


def entitle(made: Figure, conclusion: str) -> None:
    """Puts the sentence above the figure, in lines that end before its edge."""
    columns, canvas = int(10.2 * made.get_figwidth()), FigureCanvasAgg(made)
    while True:
        title = made.suptitle(
            textwrap.fill(conclusion, columns), x=MARGIN, ha="left", fontsize=11.5, fontweight="bold"
        )
        end = title.get_window_extent(canvas.get_renderer()).x1
        if end <= (1 - MARGIN) * made.bbox.width or columns <= 20:
            return
        columns -= 2


def tidy(axis: Axes, **labels: str) -> None:
    """Labels, a pale grid and no box."""
    axis.set(**labels)  # pyright: ignore[reportArgumentType]
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def along_timesteps(axis: Axes, timesteps: Sequence[float]) -> None:
    """Turns the axis so that denoising runs from left to right."""
    if len(timesteps) > 1:
        axis.set_xlim(max(timesteps), min(timesteps))
    axis.set_xlabel(TIMESTEP)


def ramp(count: int) -> list[tuple[float, ...]]:
    """`count` colours of viridis, its palest end left out."""
    return [tuple(map(float, colormaps["viridis"](x))) for x in np.linspace(0, 0.88, max(count, 1))]


def spread(values: Float[np.ndarray, "*shape"]) -> Normalize:
    """The colour scale of these values: a log scale where they are positive and span more than a decade."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > DECADE:
        return LogNorm(low, high)
    return Normalize(low, high if high > low else low + 1)


def log_if_wide(axis: Axes, values: Float[np.ndarray, "*shape"]) -> None:
    """Makes the y axis a log scale where these values are positive and span more than a decade."""
    if values.min() > 0 and values.max() / values.min() > DECADE:
        axis.set_yscale("log")
        if values.max() / values.min() > DECADE**2:
            return  # whole decades are labels enough
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))


def heat(
    made: Figure,
    axis: Axes,
    values: Float[np.ndarray, "rows steps"],
    timesteps: Sequence[float],
    meaning: str,
) -> None:
    """Draws a table of values as colours, one column per timestep, with their scale beside it."""
    image = axis.imshow(values, aspect="auto", interpolation="nearest", cmap="cividis", norm=spread(values))
    every = max(1, -(-len(timesteps) // 13))
    axis.set_xticks(range(0, len(timesteps), every), [f"{t:.0f}" for t in timesteps[::every]])
    axis.set_xlabel(TIMESTEP)
    made.colorbar(image, ax=axis, label=meaning, pad=0.01)


def picked(timesteps: Sequence[float], count: int) -> list[float]:
    """At most `count` of the timesteps, evenly spread, the first and the last among them."""
    indices = np.unique(np.round(np.linspace(0, len(timesteps) - 1, min(count, len(timesteps)))).astype(int))
    return [timesteps[i] for i in indices]
