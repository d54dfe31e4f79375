"""What the statistics say: which layers are asymmetric, drift over time or have outlier channels, and what follows."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ditq.core.errors import UserError
from ditq.diagnostics.channels import ChannelStatistics
from ditq.diagnostics.histogram import quantiles
from ditq.diagnostics.levels import levels_per_tenth
from ditq.diagnostics.statistics import ActivationStatistics

KIND, VERSION = "ditq.activation_verdict", 1
FINDINGS = ("asymmetry", "drift", "outliers")
LEVELS = ("none", "mild", "strong")
QUANTILES = (0.001, 0.01, 0.5, 0.99, 0.999)


@dataclass(frozen=True)
class Thresholds:
    """From which strength on a finding is mild, and from which strong."""

    asymmetry: tuple[float, float] = (0.1, 0.25)
    """Part of a symmetric grid's codes that no value uses: 0 for symmetric values, 0.5 for one-sided ones."""
    drift: tuple[float, float] = (1.5, 3.0)
    """The greatest absolute value of the loudest timestep over that of the quietest."""
    outliers: tuple[float, float] = (2.5, 10.0)
    """The widest channel's range over the median channel's. From the first on a channel counts as an outlier."""

    def __post_init__(self) -> None:
        for name, (mild, strong) in asdict(self).items():
            if not 0 < mild <= strong < math.inf:
                raise UserError(
                    f"--{name}-at", got=f"{mild} {strong}", expected="two numbers, 0 < MILD <= STRONG"
                )

    def level(self, finding: str, strength: float) -> str:
        """The level of a finding of this strength."""
        mild, strong = getattr(self, finding)
        return LEVELS[(strength >= mild) + (strength >= strong)]


def verdict(
    statistics: ActivationStatistics, thresholds: Thresholds = Thresholds(), bits: int = 8
) -> dict[str, Any]:
    """The judgement of every layer, as JSON values: `layers` by path, a `summary` of counts, and `conclusions`."""
    layers = {
        path: {**name._asdict(), **_of_layer(statistics, path, thresholds, bits)}
        for path, name in statistics.names.items()
    }
    summary = {
        finding: {level: sum(e[finding]["level"] == level for e in layers.values()) for level in LEVELS}
        for finding in FINDINGS
    }
    return {
        "kind": KIND,
        "version": VERSION,
        "model": statistics.meta.get("model"),
        "points": len(statistics.points),
        "timesteps": statistics.timesteps,
        "bits": bits,
        "thresholds": {name: list(pair) for name, pair in asdict(thresholds).items()},
        "summary": summary,
        "conclusions": [conclusion(layers, finding) for finding in FINDINGS],
        "layers": layers,
    }


def conclusion(layers: dict[str, dict[str, Any]], finding: str) -> str:
    """One sentence on one finding over these layers."""
    having = {path: e[finding] for path, e in layers.items() if e[finding]["level"] != "none"}
    if not having:
        return f"{finding}: none of {len(layers)} layers"
    worst = max(having, key=lambda path: _sortable(having[path]["strength"]))
    strong = sum(e["level"] == "strong" for e in having.values())
    return (
        f"{finding}: {len(having)} of {len(layers)} layers, {strong} of them strongly; "
        f"most in {layers[worst]['label']}: {having[worst]['meaning']}"
    )


def times(ratio: float) -> str:
    """A ratio as a reader wants it: one digit after the point, and none where it is large."""
    return f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}" if ratio < 1e5 else f"{ratio:.0e}"


def loudness(part: ChannelStatistics) -> float:
    """The greatest absolute value."""
    return float(max(-part.minimum.min(), part.maximum.max(), 0.0))


def channel_ranges(part: ChannelStatistics) -> np.ndarray:
    """The range of every channel."""
    return part.maximum - part.minimum


def _of_layer(
    statistics: ActivationStatistics, path: str, thresholds: Thresholds, bits: int
) -> dict[str, Any]:
    whole, steps = statistics.over_time(path), statistics.layers[path]
    low, high = float(whole.minimum.min()), float(whole.maximum.max())
    ends = quantiles(whole.histograms.wide, np.array(QUANTILES), low, high)
    return {
        "channels": whole.channels,
        "min": low,
        "max": high,
        "shifted_max": float(channel_ranges(whole).max() / 2),
        "mean": float(whole.mean.mean()),
        "negative_fraction": whole.negative_fraction,
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, ends, strict=True)},
        "asymmetry": _asymmetry(low, high, thresholds),
        "drift": _drift(steps, thresholds),
        "outliers": _outliers(whole, thresholds),
        "levels_per_tenth": {name: each.tolist() for name, each in levels_per_tenth(whole, bits).items()},
    }


def _asymmetry(low: float, high: float, thresholds: Thresholds) -> dict[str, Any]:
    low, high = min(low, 0.0), max(high, 0.0)
    largest = max(-low, high)
    unused = 1 - (high - low) / (2 * largest) if largest else 0.0
    level = thresholds.level("asymmetry", unused)
    meaning = "a symmetric grid fits"
    if level != "none":
        bits = -math.log2(1 - unused)
        meaning = f"{unused:.0%} of a symmetric grid's codes are never used; a shift or zero point gains {bits:.1f} bit"
    smaller = min(-low, high)
    return {
        "level": level,
        "strength": unused,
        "max_over_min": largest / smaller if smaller else None,
        "meaning": meaning,
    }


def _drift(steps: dict[float, ChannelStatistics], thresholds: Thresholds) -> dict[str, Any]:
    loud = {t: loudness(part) for t, part in steps.items()}
    quietest, loudest = min(loud, key=lambda t: loud[t]), max(loud, key=lambda t: loud[t])
    least, most = loud[quietest], loud[loudest]
    ratio = most / least if least else (math.inf if most else 1.0)
    level = thresholds.level("drift", ratio)
    meaning = "one static scale serves all timesteps"
    if len(steps) == 1:
        meaning = "one timestep was observed: drift cannot be judged"
    elif level != "none":
        lost = (
            f"{times(ratio)} times coarser than needed ({math.log2(ratio):.1f} bit)" if least else "of no use"
        )
        meaning = f"a static scale is {lost} at timestep {quietest:.0f}; give timesteps their own"
    return {
        "level": level,
        "strength": ratio if math.isfinite(ratio) else None,
        "quietest": {"timestep": quietest, "max": least},
        "loudest": {"timestep": loudest, "max": most},
        "meaning": meaning,
    }


def _outliers(whole: ChannelStatistics, thresholds: Thresholds) -> dict[str, Any]:
    ranges = channel_ranges(whole)
    median, widest = float(np.median(ranges)), float(ranges.max())
    ratio = widest / median if median else (math.inf if widest else 1.0)
    channels = np.flatnonzero((ranges >= thresholds.outliers[0] * median) & (ranges > median))
    level = thresholds.level("outliers", ratio)
    meaning = "one scale serves all channels"
    if level != "none":
        cost = (
            f"{math.log2(ratio):.1f} bit on the median channel"
            if median
            else "every bit on the median channel"
        )
        what = (
            "migrate their scale into the weights"
            if level == "strong"
            else "a range searched for the least error may do"
        )
        meaning = f"{len(channels)} of {len(ranges)} channels are wide and cost {cost}; {what}"
    return {
        "level": level,
        "strength": ratio if math.isfinite(ratio) else None,
        "threshold": thresholds.outliers[0],
        "widest": widest,
        "median": median,
        "channels": channels.tolist(),
        "meaning": meaning,
    }


def _sortable(strength: float | None) -> float:
    return math.inf if strength is None else strength
