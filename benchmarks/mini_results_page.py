"""The words of docs/results/mini.md, from an evaluation's report."""

from ditq.cli.pipeline import Amounts
from ditq.evaluation import EvalReport, compared, floor_told, markdown, rows, smaller

RANGES = ("A8", "A6", "A4", "tiers", "budget of 6 bits")
"""Choices of activation bits that are drawn with learned 4-bit weights."""
GRIDS = ("A8", "A6", "A4")
"""Those that are drawn with one grid for all timesteps too."""
SHOWN = (
    "W4 A16 rounding, min-max",
    "W4 A8 rounding",
    "W4 A8 AdaRound",
    "W4 g64 A8 AdaRound",
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


def text(report: EvalReport, amounts: Amounts, platform: str) -> str:
    """The page."""
    step = report.settings
    return "\n".join(
        [
            "# What each choice costs on `mini`",
            "",
            "Written by `python benchmarks/mini_results.py`; every figure and sentence is computed. "
            f"{len(report.prompts)} prompts, all of them combinations of object and background that neither "
            f"the training "
            f"of `mini` nor the calibration has seen; {step['steps']} steps, guidance {step['guidance']:g}. "
            f"Every variant "
            "starts from the float model's own noise, and is compared with the float model's picture of "
            "that prompt and "
            "seed.",
            "",
            "![The same prompts and seeds, float and quantized](mini_pictures.png)",
            "",
            "![PSNR of every variant](mini_psnr.png)",
            "",
            "Median, and in brackets the quartiles over the prompts; all scores picture by picture are in "
            "[mini.json](mini.json). A16: activations stay float. g64: a scale for each 64 columns, else "
            "one for each "
            "output channel. Rounding takes the scale of least squared error unless it says min-max. "
            "Activation grids are "
            "per timestep unless it says static.",
            "",
            markdown(_table(report)),
            "",
            floor_told(report)
            + " Two pictures that differ by less than that differ by less than a change of seed.",
            "",
            *_section("AdaRound against rounding to nearest", _learned(report)),
            *_section("The range of the weights", _ranges(report)),
            *_section("Grids of the activations per timestep, or one for all", _static(report)),
            *_section("Bits of the activations, at 4-bit learned weights", _bits(report)),
            *_section("Groups of 64 columns", _groups(report)),
            *_section("Size", _sizes(report)),
            "## How it was made",
            "",
            f"{amounts.images} calibration prompts, {amounts.steps} steps each. Blocks are reconstructed on "
            f"all of them, "
            f"every {amounts.cache_stride}th step, {amounts.iterations} iterations a block, with 8-bit "
            f"activations in the "
            f"loop. Activation grids come from {amounts.statistics_images} of them, every "
            f"{amounts.statistics_stride}nd "
            "step, without channel factors, so that all weights meet all grids. A static grid is the least "
            "that holds the "
            f"layer's grids of all timesteps. {platform}.",
            "",
        ]
    )


def _table(report: EvalReport) -> list[list[str]]:
    """The report's table without what depends on the machine."""
    return [row[:-2] for row in rows(report)]


def _section(title: str, lines: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines), ""]


def _against(report: EvalReport, name: str, over: str) -> str:
    return compared(report, name, over, f"{name}", over)


def _learned(report: EvalReport) -> list[str]:
    grids = ("W4 A16", "W4 g64 A16", "W3 A16", "W4 A8", "W4 g64 A8")
    return [_against(report, f"{grid} AdaRound", f"{grid} rounding") for grid in grids]


def _ranges(report: EvalReport) -> list[str]:
    grids = ("W4 A16", "W4 g64 A16", "W3 A16")
    return [_against(report, f"{grid} rounding", f"{grid} rounding, min-max") for grid in grids]


def _static(report: EvalReport) -> list[str]:
    told = []
    for bits in GRIDS:
        timed, static = f"W4 {bits} AdaRound", f"W4 {bits} AdaRound, static"
        errors = [report.variant(name).spread("latent_error").median for name in (timed, static)]
        smaller_on = report.gain(static, timed, "latent_error").wins
        told.append(
            f"{_against(report, timed, static)} Latent error {errors[0]:.1f} % against {errors[1]:.1f} % (medians), "
            f"smaller on {smaller_on}."
        )
    return told


def _bits(report: EvalReport) -> list[str]:
    return [_against(report, f"W4 {bits} AdaRound", "W4 A16 AdaRound") for bits in RANGES]


def _groups(report: EvalReport) -> list[str]:
    return [_against(report, f"W4 g64 {a} AdaRound", f"W4 {a} AdaRound") for a in ("A16", "A8")]


def _sizes(report: EvalReport) -> list[str]:
    note = "`mini`'s adaptive layer norms, a third of its weights, and its embeddings stay in 16 bits."
    return [smaller(report, name) for name in ("W4 A8 AdaRound", "W4 g64 A8 AdaRound")] + [note]
