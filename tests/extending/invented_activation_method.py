"""An activation method in one file: a step that follows the timestep in a straight line between both ends."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ditq.activations import Decision
from ditq.core.activation_grid import GridRows
from ditq.core.cost import Cost
from ditq.core.spec import Spec


@dataclass(frozen=True, eq=False)
class LineGrid:
    """A grid whose step size is linear in the timestep: not one row is stored."""

    first: tuple[float, float]
    """Timestep and step size at the noisy end."""
    last: tuple[float, float]
    bits: int
    smooth: None = None

    def at(self, timesteps):
        """The rows of these timesteps."""
        (t1, s1), (t0, s0) = self.first, self.last
        scale = np.interp(timesteps, [t0, t1], [s0, s1]).astype(np.float32)
        spec, ones = Spec(self.bits), np.ones(len(scale), np.float32)
        return GridRows(mx.array(scale), mx.array(spec.qmin * ones), mx.array(spec.qmax * ones))


@dataclass(frozen=True)
class Line:
    """The largest absolute value at the first and at the last timestep, and a line between."""

    bits: int = 8

    def cost(self, inputs, steps):
        """Nothing to speak of."""
        return Cost()

    def decide(self, statistics, weights, on_step=lambda: None):
        """The grids of all observed inputs."""
        ends = [statistics.at(statistics.steps[i]) for i in (0, -1)]
        for _ in statistics.steps:
            on_step()
        times = statistics.timesteps[[0, -1]].tolist()
        top = Spec(self.bits).qmax
        grids = {}
        for source in ends[0]:
            first, last = (
                (t, float(end[source].absmax.max()) / top) for t, end in zip(times, ends, strict=True)
            )
            grids[source] = LineGrid(first, last, self.bits)
        return Decision.of(statistics, grids)
