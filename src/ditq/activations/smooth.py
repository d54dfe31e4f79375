"""Channel factors for layers whose range is made by a few channels: x / m meets W diag(m), and the product stays.

SmoothQuant (arXiv 2211.10438) and TaQ-DiT's migration (arXiv 2411.14172) move the difficulty of outlier channels into
the weights. Here only isolated spikes are moved, and only where rounding weights and inputs with the factors leaves
less output error than without: a factor inflates the range of the weight's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from jaxtyping import Bool, Float, Float32

from ditq.activations.grid_search import Inputs, find_grid, on_grid
from ditq.core import affine
from ditq.core.errors import UserError
from ditq.core.spec import Spec
from ditq.diagnostics import LayerStatistics

STRENGTHS = (0.25, 0.5, 0.75, 1.0)
"""Candidates: at 1 a spike comes down to the greatest of the other channels."""
POLICIES = ("foldable", "none", "all")
"""Layers behind a modulation that can take the division in, no layers, or all of them."""


@dataclass(frozen=True)
class Smoothing:
    """Which layers may have factors, and what counts as an isolated spike."""

    policy: str = "foldable"
    spike_from: float = 5.0
    """p100 / p99 of |x|."""
    rarer_than: float = 0.05
    """Part of the channels that may reach beyond `spike_from` * p99."""
    weights: Spec = field(default_factory=lambda: Spec(4))
    """The grid of the weights that the gate rounds to."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise UserError("--smooth", got=self.policy, expected=" or ".join(POLICIES))
        if not 1 < self.spike_from < np.inf or not 0 < self.rarer_than <= 1:
            raise UserError(
                "--spike-from, --spike-channels",
                got=f"{self.spike_from} and {self.rarer_than}",
                expected="a number above 1, and a part of the channels, above 0 and at most 1",
            )

    def allowed(self, statistics: LayerStatistics) -> list[str]:
        """The observed inputs that may have factors."""
        if self.policy == "none":
            return []
        return [s for s in statistics.groups if self.policy == "all" or statistics.foldable(s)]

    def spikes(
        self, absmax: Float[np.ndarray, "channels"], p99: float
    ) -> Bool[np.ndarray, "channels"] | None:
        """The channels that reach beyond `spike_from` * p99, if there are some and they are few; else None."""
        found = absmax > self.spike_from * p99
        return found if 0 < found.mean() < self.rarer_than else None


def factors(
    absmax: Float[np.ndarray, "channels"], spikes: Bool[np.ndarray, "channels"], strength: float
) -> Float32[np.ndarray, "channels"]:
    """Each spike's |x| over the greatest of the other channels, to the power `strength`; 1 for the others."""
    reference = float(absmax[~spikes].max())
    raised = np.maximum(absmax / max(reference, np.finfo(np.float32).tiny), 1.0) ** strength
    return np.where(spikes, raised, 1.0).astype(np.float32)


def best_factors(
    inputs: Sequence[Inputs],
    bits: Sequence[int],
    weights: Sequence[Float[mx.array, "out channels"]],
    absmax: Float[np.ndarray, "channels"],
    spikes: Bool[np.ndarray, "channels"],
    spec: Spec,
) -> tuple[Float32[np.ndarray, "channels"] | None, dict[float, float]]:
    """The factors of least output error with rounded weights and inputs, or None; and each strength's error.

    `inputs` and `bits` are those of some timesteps, `weights` all that receive the input. Errors are relative to those
    without factors, which are strength 0.
    """
    tried = {0.0: np.ones_like(absmax, dtype=np.float32)}
    tried |= {strength: factors(absmax, spikes, strength) for strength in STRENGTHS}
    errors = {strength: _rounded_error(inputs, bits, weights, m, spec) for strength, m in tried.items()}
    relative = {strength: error / errors[0.0] if errors[0.0] else 1.0 for strength, error in errors.items()}
    best = min(relative, key=lambda strength: relative[strength])
    return (tried[best] if best else None), relative


def _rounded_error(
    inputs: Sequence[Inputs],
    bits: Sequence[int],
    weights: Sequence[Float[mx.array, "out channels"]],
    m: Float32[np.ndarray, "channels"],
    spec: Spec,
) -> float:
    """The squared output error of rounded weights W diag(m) on rounded inputs x / m, over all rows.

    A convolution's kernel counts as one matrix per pixel of it, whose errors add up.
    """
    rounded = []
    for weight in weights:
        codes, scale, zero = affine.round_to_nearest(
            weight.astype(mx.float32) * mx.array(m), spec, search=True
        )
        rounded.append(affine.dequantize(codes, scale, zero))
    total = 0.0
    for one, b in zip(inputs, bits, strict=True):
        smoothed = one.smoothed(m)
        x = on_grid(mx.array(smoothed.rows), find_grid(smoothed, b, "tensor"))
        of_row = mx.array(one.weights.astype(np.float32))
        for weight, q in zip(weights, rounded, strict=True):
            error = mx.square(x @ q.T - mx.array(one.rows) @ weight.astype(mx.float32).T).sum(axis=1)
            total += float(np.array((error * of_row).sum()))
    return total
