"""What a run of AdaRound will take, told before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from ditq.core.spec import Spec
from ditq.models.cost import matmul_rate, step_flops
from ditq.models.mmdit.config import MMDiTConfig

PER_WEIGHT = {"cpu": 6e-8, "gpu": 3e-10}
"""Seconds that one iteration spends on a weight besides matrix products: rounding, its gradient, Adam."""
COPIES = 7
"""Float32 arrays as large as a block's weights: the float weight, its two codes, parts, their gradient, Adam's two."""


@dataclass(frozen=True)
class Forecast:
    """Time, memory and disk of a run."""

    blocks: int
    iterations: int
    seconds: float
    memory: float
    disk: float

    @property
    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "blocks": self.blocks,
            "iterations": self.iterations,
            "seconds": round(self.seconds, 1),
            "memory_bytes": round(self.memory),
            "disk_bytes": round(self.disk),
        }

    def __str__(self) -> str:
        minutes = self.seconds / 60
        time = f"{self.seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min"
        return (
            f"blocks to quantize: {self.blocks}, {self.iterations:,} iterations each; about {time} by this device's "
            f"speed; memory: {self.memory / 1e9:.2f} GB beside the model; disk: {self.disk / 1e6:.1f} MB"
        )


def forecast(
    config: MMDiTConfig,
    cache: Mapping[str, Any],
    rows: int,
    blocks: int,
    iterations: int,
    batch_size: int,
    spec: Spec,
) -> Forecast:
    """What `blocks` blocks of a model of this shape take, with a cache of so many rows."""
    hidden, batch = config.hidden_size, min(batch_size, rows)
    weights = 2 * (4 + 2 * config.mlp_ratio) * hidden**2
    tokens = cache["image_tokens"] + cache["text_tokens"]
    # a forward, and twice its products again for the gradients
    flops = (
        3 * step_flops(config, batch, cache["image_tokens"], cache["text_tokens"]) / config.depth_multimodal
    )
    device = "cpu" if mx.default_device().type == mx.DeviceType.cpu else "gpu"
    step = flops / matmul_rate() + weights * PER_WEIGHT[device]
    streams = 4 * rows * tokens * hidden * 4
    activations = batch * tokens * hidden * (14 + 4 * config.mlp_ratio) * 4
    scales = 4 * weights / (spec.group_size or hidden)
    return Forecast(
        blocks,
        iterations,
        blocks * iterations * step,
        weights * 4 * COPIES + streams + activations,
        blocks * (weights + scales),
    )
