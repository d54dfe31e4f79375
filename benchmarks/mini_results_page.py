"""The words of docs/results/mini.md, from an evaluation's report."""

import textwrap
from dataclasses import asdict
from itertools import product
from math import comb

from ditq.evaluation import EvalReport, comparison_sentence, floor_sentence, markdown, rows, size_sentence
from ditq.quantization.amounts import Amounts

RANGES = ("A8", "A6", "A4", "tiers", "budget of 6 bits")
"""Choices of activation bits that are drawn with learned 4-bit weights."""
GRIDS = ("A8", "A6", "A4")
"""Those that are drawn with other grids in time too."""
STATIC, TIMED = TIMES = ("static", "all timed")
"""One grid for all timesteps; one for every timestep and layer, whether it pays or not."""
SHOWN = (
    "W4 A8 rounding",
    "W4 A8 AdaRound",
    "W3 A16 rounding",
    "W3 A16 AdaRound",
    "W4 A4 AdaRound",
)
"""Of the picture grid, after the float model."""


def shown_variants(report: EvalReport) -> list[str]:
    """The columns of the picture grid."""
    return [report.reference.name, *SHOWN]


def headline(report: EvalReport) -> str:
    """What the figure shows in a sentence."""
    gain = report.gain("W4 A8 AdaRound", "W4 A8 rounding")
    return (
        f"At 4-bit weights and 8-bit activations learned rounding is {gain.spread.median:+.1f} dB against "
        f"rounding to "
        f"nearest, nearer to the float picture on {gain.wins} of {gain.pictures} prompts"
    )


ABOUT = """\
Written by `python benchmarks/mini_results.py --prompts {prompts}`; every figure and sentence is computed.
{prompts} prompts, all of them
combinations of object and background that neither the training of `mini` nor the calibration has seen; {steps} steps,
guidance {guidance:g}. Every variant starts from the same noise as the float model, and is compared with the float
model's picture of that prompt and seed. The first row compares the float model with itself.
"""
LEGEND = """\
Median, and in brackets the quartiles over the prompts; all scores picture by picture are in [mini.json](mini.json).
A16: activations stay float. g64: a scale for each 64 columns, else one for each output channel. Rounding uses the
scale of the lowest squared error, except where the name says min-max. Activation grids are per timestep where that
saves a tenth of an input's error, except where the name says static (one grid for all timesteps) or all timed (per
timestep everywhere).
"""
MAKING = """\
{images} calibration prompts, {steps} steps each. Blocks are reconstructed on all of them, every {cache_stride}th step,
{iterations} iterations per block, with 8-bit activations in the loop. Activation grids are chosen on
{statistics_images} of them, every {statistics_stride}nd step, without channel factors, so that all weights can be
combined with all grids. A static grid is chosen like the others, from the values of all timesteps together. {platform}.
"""


def text(report: EvalReport, amounts: Amounts, average_bits: dict[str, float], platform: str) -> str:
    """The page; `average_bits` are those of the activations, by choice."""
    parts = [
        "# What each choice costs on `mini`",
        _wrapped(ABOUT.format(prompts=len(report.prompts), **report.settings)),
        "![The same prompts and seeds, float and quantized](mini_pictures.png)",
        "![PSNR of every variant](mini_psnr.png)",
        _wrapped(LEGEND),
        markdown(_table(report)),
        _wrapped(
            f"{floor_sentence(report)} Two pictures nearer than that differ by less than a change of seed."
        ),
        _section("AdaRound against rounding to nearest", _learned(report)),
        _section("The range of the weights", _ranges(report)),
        _section("Grids of the activations per timestep, or one for all", _static(report)),
        _section("Bits of the activations, at 4-bit learned weights", _bits(report, average_bits)),
        _section("Groups of 64 columns", _groups(report)),
        _section("Size", _sizes(report)),
        "## How it was made",
        _wrapped(MAKING.format(platform=platform, **asdict(amounts))),
    ]
    return "\n\n".join(parts) + "\n"


def _table(report: EvalReport) -> list[list[str]]:
    """The report's table without what depends on the machine."""
    return [row[:-2] for row in rows(report)]


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *(_wrapped(f"- {line}") for line in lines)])


def _against(report: EvalReport, name: str, over: str) -> str:
    return comparison_sentence(report, name, over, name, over)


def _learned(report: EvalReport) -> list[str]:
    grids = ("W4 A16", "W4 g64 A16", "W3 A16", "W4 A8", "W4 g64 A8")
    return [_against(report, f"{grid} AdaRound", f"{grid} rounding") for grid in grids]


def _ranges(report: EvalReport) -> list[str]:
    grids = ("W4 A16", "W4 g64 A16", "W3 A16")
    return [_against(report, f"{grid} rounding", f"{grid} rounding, min-max") for grid in grids]


def _static(report: EvalReport) -> list[str]:
    told = []
    for bits, kind in product(GRIDS, ("", f", {TIMED}")):
        timed, static = f"W4 {bits} AdaRound{kind}", f"W4 {bits} AdaRound, {STATIC}"
        errors = [report.variant(name).spread("latent_error").median for name in (timed, static)]
        gain, latent = report.gain(timed, static), report.gain(timed, static, "latent_error")
        told.append(
            f"{timed} against {static}: {gain.spread.median:+.2f} dB (median of the differences; quartiles "
            f"{gain.spread.low:+.2f} and {gain.spread.high:+.2f}), nearer to the float pictures on {gain.wins} of "
            f"{gain.pictures}; latent error {errors[0]:.2f} % against {errors[1]:.2f} % (medians), smaller on "
            f"{latent.wins}. {_sign_test(latent.wins, latent.pictures)}"
        )
    note = (
        "An input has grids per timestep only where they save a tenth of its error on the calibration data; with all "
        "timed, every input has them. How far the inputs drift: [mini.md](../mini.md#what-its-layers-receive)."
    )
    return [*told, note]


def _sign_test(wins: int, pictures: int) -> str:
    """Who wins by latent error, and how likely so uneven a count would be if neither did (two-sided sign test)."""
    most = max(wins, pictures - wins)
    chance = min(1.0, 2 * sum(comb(pictures, k) for k in range(most, pictures + 1)) / 2**pictures)
    if chance > 0.05:
        return f"No winner: equals would come as far apart as this with a probability of {chance:.2f}."
    winner = "Grids per timestep win" if wins > pictures - wins else "The static grids win"
    return f"{winner}: equals would come as far apart as this with a probability of {chance:.2g}."


def _bits(report: EvalReport, average_bits: dict[str, float]) -> list[str]:
    told = [_against(report, f"W4 {bits} AdaRound", "W4 A16 AdaRound") for bits in RANGES]
    mixed = [f"{name} {average_bits[name]:.2f}" for name in RANGES[3:]]
    return [*told, f"Bits on average over all values: {', '.join(mixed)}."]


def _groups(report: EvalReport) -> list[str]:
    return [_against(report, f"W4 g64 {a} AdaRound", f"W4 {a} AdaRound") for a in ("A16", "A8")]


def _sizes(report: EvalReport) -> list[str]:
    note = "The adaptive layer norms, a third of `mini`'s weights, and the embedders stay in 16 bits in these variants."
    return [size_sentence(report, name) for name in ("W4 A8 AdaRound", "W4 g64 A8 AdaRound")] + [note]


def _wrapped(text: str) -> str:
    """Lines of the length of the other documents."""
    indent = "  " if text.startswith("- ") else ""
    return textwrap.fill(" ".join(text.split()), 118, subsequent_indent=indent, break_on_hyphens=False)
