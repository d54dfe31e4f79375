"""Limits that a checkpoint has to keep, for those who build checkpoints in continuous integration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ditq.evaluation.report import EvalReport
from ditq.evaluation.trajectory_curves import Curves


@dataclass(frozen=True)
class Limit:
    """A flag of the gate and the figure that it holds."""

    flag: str
    title: str
    metric: str | None
    """In `METRICS`: its median over the pictures counts. None: the teacher-forced error of the prediction."""
    most: bool
    """Whether the limit is the largest allowed value, else the least."""
    unit: str = ""
    divided: float = 1.0
    """What a report's figure is divided by: the latent error is in %, its limit a fraction."""


LIMITS = {
    "max_latent_error": Limit("--max-latent-error", "median latent error", "latent_error", True, divided=100),
    "min_psnr": Limit("--min-psnr", "median PSNR", "psnr", False, " dB"),
    "min_ssim": Limit("--min-ssim", "median SSIM", "ssim", False),
    "max_velocity_error": Limit("--max-velocity-error", "teacher-forced error of the prediction", None, True),
}
"""By the flag's name in Python."""


def failures(limits: Mapping[str, float], report: EvalReport, curves: Sequence[Curves]) -> list[str]:
    """A line for each variant and limit that was not kept: what, got, limit. Values that are no numbers fail."""
    lines = []
    for name, bound in limits.items():
        limit = LIMITS[name]
        for variant in report.variants:
            value = _value(limit, report, curves, variant.name)
            kept = value <= bound if limit.most else value >= bound
            if not kept:
                word = "at most" if limit.most else "at least"
                got = f"{value:.4g}{limit.unit}"
                lines.append(
                    f"{variant.name}: {limit.title}: got {got}; limit {word} {bound:g}{limit.unit} ({limit.flag})"
                )
    return lines


def _value(limit: Limit, report: EvalReport, curves: Sequence[Curves], variant: str) -> float:
    if limit.metric is None:
        return next((one.prediction_error for one in curves if one.variant == variant), math.nan)
    return report.median(variant, limit.metric) / limit.divided
