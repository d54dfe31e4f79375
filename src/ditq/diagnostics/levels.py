"""How many levels of an activation grid each tenth of a layer's values receives: what asymmetry costs, as numbers."""

import numpy as np
from jaxtyping import Float64

from ditq.core.affine import grid_between
from ditq.core.spec import Spec
from ditq.diagnostics.channels import ChannelStatistics, PerChannel
from ditq.diagnostics.histogram import quantiles

Tenths = Float64[np.ndarray, "10"]
GRIDS = ("symmetric", "shifted", "asymmetric")


def tenths(statistics: ChannelStatistics) -> Float64[np.ndarray, "11"]:
    """The edges of the ten tenths of all values, from the least to the greatest."""
    low, high = float(statistics.minimum.min()), float(statistics.maximum.max())
    return quantiles(statistics.histograms.wide, np.linspace(0, 1, 11), low, high)


def steps(statistics: ChannelStatistics, bits: int) -> dict[str, float]:
    """The step of each of `GRIDS` that holds every value of the layer: one step for the whole tensor.

    Symmetric around zero; symmetric around each channel's midpoint, which is what TaQ-DiT shifts to zero; and with a
    zero point.
    """
    low, high = statistics.minimum, statistics.maximum
    midpoint = (low + high) / 2
    return {
        "symmetric": _step(np.concatenate([low, high]), Spec(bits)),
        "shifted": _step(np.concatenate([low - midpoint, high - midpoint]), Spec(bits)),
        "asymmetric": _step(np.concatenate([low, high]), Spec(bits, symmetric=False)),
    }


def levels_per_tenth(statistics: ChannelStatistics, bits: int = 8) -> dict[str, Tenths]:
    """The width of each tenth in steps of each grid: below 1, a whole tenth of the values shares one or two levels.

    A shift moves the values of a channel together, so that the width of a tenth is the same before and after it.
    """
    widths = np.diff(tenths(statistics))
    return {name: widths / step for name, step in steps(statistics, bits).items()}


def _step(values: PerChannel, spec: Spec) -> float:
    low, high = (np.array([end], np.float32) for end in (min(values.min(), 0.0), max(values.max(), 0.0)))
    return float(grid_between(low, high, spec)[0][0])
