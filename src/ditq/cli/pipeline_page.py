"""The pipeline's last step: a page and a picture grid that show what quantization cost."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ditq.cli.pipeline import Pipeline
from ditq.cli.pipeline_blocks import read_blocks
from ditq.core.files import read_image, read_json, write_figure, write_text
from ditq.core.recipe import Rule
from ditq.evaluation import (
    EvalReport,
    Spread,
    comparison_sentence,
    floor_sentence,
    read_drawn,
    read_report,
    rows,
    size_sentence,
)
from ditq.plots.comparison_page import Section, comparison_page, drawing, pictures, table

SHOWN = 6
"""Prompts whose pictures are shown."""


def draw_page(pipeline: Pipeline) -> str:
    """Writes comparison.html and comparison.png; the step's line."""
    from ditq.plots.comparison import picture_grid  # matplotlib takes a second

    folder = pipeline.folder
    report = read_report(folder / "evaluation" / "report.json")
    config = read_blocks(pipeline.quantization)
    names = [report.reference.name, *(entry.name for entry in report.variants)]
    first = range(min(SHOWN, len(report.prompts)))
    shown = {name: read_drawn(folder / "evaluation", name).pictures(first) for name in names}
    scores = {entry.name: entry.scores["psnr"][:SHOWN] for entry in report.variants}
    write_figure(folder / "comparison.png", picture_grid(shown, report.prompts[:SHOWN], scores))
    sections = [
        Section(
            "Same prompt, same seed",
            [
                "Every row starts from the same noise. Under each picture stands its PSNR to the float model's: "
                "above 40 dB the two can hardly be told apart, at 30 dB details differ.",
            ],
            pictures(shown, report.prompts[:SHOWN], scores),
        ),
        _distances(pipeline, report),
        _sizes(pipeline, report),
        _blocks(config),
        _activations(pipeline),
        _making(pipeline, config),
    ]
    page = comparison_page(
        f"{pipeline.model.name}, quantized: {pipeline.label}",
        f"{len(report.prompts)} prompts that calibration never used, {pipeline.settings.steps} steps, "
        f"guidance {pipeline.settings.guidance:g}, {pipeline.settings.width} x {pipeline.settings.height} pixels.",
        _tiles(pipeline, report, config),
        sections,
    )
    write_text(folder / "comparison.html", page)
    return "comparison.html, comparison.png"


def _tiles(pipeline: Pipeline, report: EvalReport, config: dict) -> dict[str, str]:
    ours, plain = f"{pipeline.label} AdaRound", f"{pipeline.label} rounding"
    entry = report.variant(ours)
    share, gain = entry.size.bytes / report.reference.size.bytes, report.gain(ours, plain)
    return {
        "to the float model's pictures (median PSNR)": f"{entry.spread('psnr').median:.1f} dB",
        "over rounding to nearest (median of the pictures' differences)": f"{gain.spread.median:+.1f} dB",
        "of the blocks' error that rounding makes": f"{config['error'] / config['error_rounding']:.0%}",
        "of the transformer's size in 16 bits": f"{share:.0%}",
    }


def _distances(pipeline: Pipeline, report: EvalReport) -> Section:
    from ditq.plots.comparison import scores_by_variant
    from ditq.plots.page import png

    label, alone = pipeline.label, f"W{pipeline.spec.bits}A16"
    told = [
        comparison_sentence(
            report, f"{label} AdaRound", f"{label} rounding", f"{label} AdaRound", "rounding to nearest"
        ),
        comparison_sentence(
            report, f"{alone} AdaRound", f"{alone} rounding", f"{alone} AdaRound", "rounding to nearest"
        ),
        floor_sentence(report),
    ]
    scores = {entry.name: entry.scores["psnr"] for entry in report.variants}
    best = max(scores, key=lambda name: Spread.of(scores[name]).median)
    floor = np.array(report.floor.scores["psnr"])
    made = scores_by_variant(
        f"Nearest to the float model: {best}", scores, "PSNR to the float model, dB", floor
    )
    return Section(
        "How far from the float model", told, drawing("PSNR by variant", png(made)) + table(rows(report))
    )


def _sizes(pipeline: Pipeline, report: EvalReport) -> Section:
    exported = sorted((pipeline.folder / "checkpoint").iterdir())
    files = [["file", "MB"], *([file.name, f"{file.stat().st_size / 1e6:.2f}"] for file in exported)]
    sizes = {rule.spec.bits for rule in pipeline.recipe.rules if rule.spec is not None}
    bits = sorted(sizes)
    note = (
        f"Every layer is quantized, to {bits[0]}"
        + (f" up to {bits[-1]}" if len(bits) > 1 else "")
        + " bits; biases, norms and scales are stored in 16."
    )
    if any(rule.spec is None for rule in pipeline.recipe.rules):
        note = "Adaptive layer norms, which hold the channel factors, stay in 16 bits, as do biases, norms and scales."
    return Section("Size", [size_sentence(report, f"{pipeline.label} AdaRound"), note], table(files))


def _blocks(config: dict) -> Section:
    from ditq.plots.adaround import block_errors, kept_of
    from ditq.plots.page import png

    listed = [["block", "rounding", "AdaRound", "of rounding's"]]
    for told in config["per_block"]:
        before, after = told["error_rounding"], told["error"]
        note = {"learned": "", "start": " (GPTQ's codes kept)", "rounding": " (rounding kept)"}[kept_of(told)]
        share = f"{after / before:.0%}{note}"
        listed.append([str(told["block"]), f"{before:.2e}", f"{after:.2e}", share])
    text = (
        "Squared error of each block's output over its power, on samples that the optimisation did not see."
    )
    return Section(
        "Errors block by block", [text], drawing("block errors", png(block_errors(config))) + table(listed)
    )


def _activations(pipeline: Pipeline) -> Section:
    config = read_json(pipeline.quant_config)
    summary = config["summary"]
    bits = ", ".join(f"{count} {name}" for name, count in summary["bits"].items())
    shifts = ", ".join(f"{count} {kind}" for kind, count in summary["shift_kinds"].items())
    text = [
        f"{summary['layers']} layers x {summary['timesteps']} timesteps: {bits}, "
        f"{summary['average_bits']:.2f} bits on average. Shifts of the inputs: {shifts}."
    ]
    folder = pipeline.quant_config.with_name(f"{pipeline.quant_config.stem}_plots")
    figures = ["bits", "scales"] if len(summary["bits"]) > 1 else ["scales"]
    drawn = [drawing(name, _png(folder / f"{name}.png")) for name in figures]
    return Section("Activations along the trajectory", text, "".join(drawn))


def _making(pipeline: Pipeline, config: dict) -> Section:
    amounts = pipeline.amounts
    tuning = f"{amounts.tuning} steps on the guided prediction" if amounts.tuning else "none"
    listed = [
        ["what", "how much"],
        ["calibration", f"{amounts.images} trajectories of {amounts.steps} steps"],
        *([_layers(rule), _grid(rule, amounts.iterations)] for rule in pipeline.recipe.rules),
        ["blocks reconstructed on", f"{config['rows']} rows (pictures x timesteps x guidance)"],
        ["last pass over all scales and biases", tuning],
        [
            "activation grids from",
            f"{amounts.statistics_images} pictures, every {ordinal(amounts.statistics_stride)}timestep",
        ],
        ["prompts to compare", f"{amounts.prompts}"],
    ]
    return Section("How it was made", [], table(listed))


def _layers(rule: Rule) -> str:
    return ", ".join(rule.roles) or "all other layers"


def _grid(rule: Rule, iterations: int) -> str:
    if rule.spec is None:
        return "16 bits"
    size = rule.spec.group_size
    grid = "one scale per output channel" if size is None else f"groups of {size}"
    methods = {
        "rtn": "rounded to nearest",
        "adaround": f"AdaRound from GPTQ's codes, {iterations} iterations a block",
    }
    return f"{rule.spec.bits} bits, {grid}, {methods.get(rule.method, rule.method)}"


def ordinal(number: int) -> str:
    """ "2nd " for 2, and nothing for 1: every timestep, every 2nd timestep."""
    if number == 1:
        return ""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending} "


def _png(path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(read_image(path)[0]).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
