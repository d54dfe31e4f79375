"""Two half-lines: steps of their own above and below zero, in a power-of-two ratio, so that one product serves both.

DualScale (SegQuant, arXiv 2507.14811; TQ-DiT, arXiv 2502.04056) splits the input at zero and multiplies each half by
itself. With a ratio that is a power of two the negative codes are written in steps of the positive ones, exact in any
floating-point format, and a single product computes both.
"""

from dataclasses import dataclass

from ditq.activations.decision import Kind
from ditq.activations.per_timestep import PerTimestep


@dataclass(frozen=True)
class DualScale(PerTimestep):
    """No shift, but two steps where these save `shift_gain` of the error; per timestep where that saves `time_gain`."""

    def _kinds(self, shifted: bool) -> list[Kind]:
        """One step or two, whatever the input."""
        return ["none", "dual-scale"]
