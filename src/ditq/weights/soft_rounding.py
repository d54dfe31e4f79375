"""Rounding as an optimisation: each weight between the code below it and the code above it.

The published form (AdaRound, Nagel et al. 2020, arXiv 2004.10568) writes the part h of the step above the lower code as
a stretched sigmoid of a free variable. Here h is itself the variable, kept in [0, 1] by projection after each step of
the optimiser: the same box, without the sigmoid's flat ends, and at a fraction of its cost on a CPU.
"""

from dataclasses import dataclass

import mlx.core as mx
from jaxtyping import Bool, Float

from ditq.core import affine
from ditq.core.quantized import QuantizedWeight
from ditq.core.spec import Spec

Parts = Float[mx.array, "out in"]

NEAR = 0.99
"""The farthest that a weight's place counts from the other code, so that a solver's choice decides also far from it."""


@dataclass(frozen=True)
class Rounding:
    """The two codes that each weight of a layer may take, on a fixed grid."""

    below: Float[mx.array, "out in"]
    free: Bool[mx.array, "out in"]
    """False where only `below` is possible: at the ends of the grid."""
    scale: Float[mx.array, "out groups"]
    zero: Float[mx.array, "out groups"]
    spec: Spec

    def values(self, part: Parts) -> Float[mx.array, "out in"]:
        """The weight at `part` of the way from the lower to the upper code; linear in `part`."""
        return affine.between(self.below, self.free, part, self.scale, self.zero)

    def hardened(self, part: Parts, smooth: Float[mx.array, "channels"] | None = None) -> QuantizedWeight:
        """The nearer of the two codes: the upper one from half of the way on."""
        codes = (self.below + (self.free & (part >= 0.5))).astype(affine.code_dtype(self.spec))
        return QuantizedWeight(codes, self.scale, self.zero, self.spec, smooth)


def start(weight: Float[mx.array, "out in"], spec: Spec) -> tuple[Rounding, Parts]:
    """The two codes of each weight in the MSE-optimal range, and the parts that reproduce the weight exactly."""
    scale, zero = affine.mse_range(weight, spec)
    below, free, part = affine.bracket(weight, scale, zero, spec)
    return Rounding(below, free, scale, zero, spec), part


def start_from(
    weight: Float[mx.array, "out in"], solved: QuantizedWeight, share: float
) -> tuple[Rounding, Parts]:
    """A solver's code of each weight and the next one on the weight's side, on the solver's scales, and where to begin.

    A part is the weight's own place between the two codes, moved by `share` of the way to the solver's code: at one
    half or more, rounding the parts gives the solver's codes back. A weight beyond both codes counts as `NEAR` the
    nearer one.
    """
    spec = solved.spec
    place = affine.places(weight, solved.scale, solved.zero)
    chosen = solved.codes.astype(mx.float32)
    below = mx.clip(mx.where(place >= chosen, chosen, chosen - 1), spec.qmin, spec.qmax - 1)
    part = (1 - share) * mx.clip(place - below, 1 - NEAR, NEAR) + share * (chosen - below)
    free = mx.ones(below.shape, dtype=mx.bool_)
    return Rounding(below, free, solved.scale, solved.zero, spec), part


def settled(part: Parts, reach: Float[mx.array, ""]) -> Parts:
    """The parts, those at `reach` or more from one half settled: whole, and out of the gradient's reach.

    As `reach` falls from one half to 0 all weights settle, the surest first, and those that have not yet make up for
    those that have, as in TesseraQ's progressive rounding (arXiv 2410.19103). Left to the end, rounding all of them at
    once throws away most of what was learned. At reach 0 every weight is whole, and the gradient passes straight
    through to all of them again, so that some still change sides.
    """
    whole = mx.stop_gradient((part >= 0.5).astype(part.dtype))
    straight = mx.where(reach > 0, 0.0, part - mx.stop_gradient(part))
    return mx.where(mx.abs(part - 0.5) >= reach, whole + straight, part)


def indecision(part: Parts, beta: Float[mx.array, ""]) -> Float[mx.array, ""]:
    """The mean of 1 - |2h - 1|^beta: 0 where every part h is 0 or 1 (AdaRound, equation 24)."""
    return mx.mean(1 - mx.power(mx.abs(2 * part - 1), beta))
