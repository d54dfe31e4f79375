"""Weight methods compared: error and picture quality against bits, a line per method."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ditq.evaluation.compare_methods import Comparison, Entry
from ditq.evaluation.method_tables import conclusion
from ditq.plots.style import BLUE, GREEN, GREY, ORANGE, VERMILLION, figure, tidy

SKY, PURPLE = "#56B4E9", "#CC79A7"
STYLES = [
    (GREY, ":", "o"),
    (GREY, "-", "o"),
    (ORANGE, "-", "s"),
    (SKY, "-", "^"),
    (BLUE, "-", "v"),
    (VERMILLION, "-", "D"),
]
SPARE = [(GREEN, "-", "P"), (PURPLE, "-", "X"), ("black", "-", "*")]
BASE, LEAST_GAIN = "rounding, MSE", -3.0
"""The baseline of the gains, and the lowest gain that is drawn, in dB: min-max rounding at 2 bits lies far below."""


@dataclass(frozen=True)
class Line:
    """One method's values at each number of bits, with their quartiles."""

    bits: Sequence[float]
    middle: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def methods_by_bits(
    conclusion: str,
    errors: Mapping[str, Line],
    scores: Mapping[str, Line],
    score: str,
    least: float | None = None,
) -> Figure:
    """Error (log scale, left) and picture score (right, called `score`) of each method against bits.

    `errors` and `scores` have the same methods in the same order. Quartiles are drawn as vertical bars, those of the
    methods side by side. The right axis begins at `least` where scores lie below it.
    """
    made = figure(conclusion, width=11.0, height=5.0)
    left, right = made.subplots(1, 2)
    styles = dict(zip(errors, STYLES + SPARE, strict=False))
    for axis, lines in ((left, errors), (right, scores)):
        for i, (name, line) in enumerate(lines.items()):
            _draw(axis, line, styles[name], name, (i - (len(lines) - 1) / 2) * 0.07)
        ticks = sorted({bits for line in lines.values() for bits in line.bits})
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    left.set_yscale("log")
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if least is not None and right.get_ylim()[0] < least:
        right.set_ylim(bottom=least)
    tidy(left, xlabel="bits of the weights", ylabel="error of the final latents, % (median, quartiles)")
    tidy(right, xlabel="bits of the weights", ylabel=f"{score} (median, quartiles)")
    handles, labels = left.get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return made


def figure_of(comparison: Comparison) -> Figure:
    """The figure of a comparison: the latent error, and the gain in PSNR over MSE-optimal rounding, picture by picture.

    Without that baseline, the PSNR itself is on the right.
    """
    names = list(dict.fromkeys(entry.contender for entry in comparison.entries))
    own = {name: [entry for entry in comparison.entries if entry.contender == name] for name in names}
    errors = {name: _line(entries, "latent_error") for name, entries in own.items()}
    if BASE in names and len(names) > 1:
        gains = {name: _gains(comparison, entries) for name, entries in own.items()}
        return methods_by_bits(
            conclusion(comparison), errors, gains, f"PSNR over {BASE}, dB", least=LEAST_GAIN
        )
    scores = {name: _line(entries, "psnr") for name, entries in own.items()}
    return methods_by_bits(conclusion(comparison), errors, scores, "PSNR to the float pictures, dB")


def _gains(comparison: Comparison, entries: Sequence[Entry]) -> Line:
    """The gains over the baseline at the same bits, on the same pictures."""
    spreads = [
        comparison.report.gain(f"{entry.contender} W{entry.bits}", f"{BASE} W{entry.bits}").spread
        for entry in entries
    ]
    return Line(
        [entry.bits for entry in entries],
        [spread.median for spread in spreads],
        [spread.low for spread in spreads],
        [spread.high for spread in spreads],
    )


def _line(entries: Sequence[Entry], metric: str) -> Line:
    spreads = [getattr(entry, metric) for entry in entries]
    return Line(
        [entry.bits for entry in entries],
        [spread.median for spread in spreads],
        [spread.low for spread in spreads],
        [spread.high for spread in spreads],
    )


def _draw(axis: Axes, line: Line, style: tuple[str, str, str], name: str, offset: float) -> None:
    colour, dashes, marker = style
    order = np.argsort(np.asarray(line.bits, float))
    at, middle = np.asarray(line.bits, float)[order] + offset, np.asarray(line.middle, float)[order]
    axis.plot(
        at, middle, color=colour, linestyle=dashes, marker=marker, markersize=5, linewidth=1.6, label=name
    )
    if line.low is not None and line.high is not None:
        axis.vlines(
            at,
            np.asarray(line.low)[order],
            np.asarray(line.high)[order],
            color=colour,
            linewidth=1,
            alpha=0.6,
        )
