"""The page of an evaluation: a verdict first, then pictures under a slider, maps of differences, curves and tables."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

from ditq.evaluation.attributes import attribute_table
from ditq.evaluation.findings import floor_sentence, size_sentence
from ditq.evaluation.full_report import (
    Evaluation,
    attributes_told,
    cost_table,
    flat_table,
    set_parts,
    settings_line,
    trajectory_table,
    verdict,
)
from ditq.evaluation.report_table import rows
from ditq.evaluation.subjects import Subject
from ditq.evaluation.variants import slug_of
from ditq.plots.captions import score_caption
from ditq.plots.comparison_page import Section, comparison_page, drawing, pictures, sliders, table
from ditq.plots.page import png
from ditq.plots.trajectory_errors import curve_conclusion

GAIN = 8
"""How much brighter a map of differences is than the differences."""
Shown = Mapping[str, UInt8[np.ndarray, "shown height width 3"]]


def evaluation_page(found: Evaluation, shown: Shown, figures: Mapping[str, Figure]) -> str:
    """The page as HTML text. `shown` are the first pictures of the float model and each variant, by name; `figures`
    those of the evaluation's folder, by file."""
    report = found.report
    verdicts = [verdict(found, subject) for subject in found.subjects]
    sections = [
        *(_sliders(found, subject, shown) for subject in found.subjects),
        _grid(found, shown),
        _scores(found, figures),
        *_attributes(found),
        *_sets(found),
        *_trajectories(found, figures),
        *_flat(found),
        *_cost(found),
        _provenance(found),
    ]
    lead = (
        " ".join(verdicts)
        if len(verdicts) == 1
        else f"{len(verdicts)} checkpoints of {report.model}. {' '.join(verdicts)}"
    )
    return comparison_page(
        f"{report.model}, quantized: did the pictures survive?", lead, _tiles(found), sections
    )


def difference(
    one: UInt8[np.ndarray, "*shape"], other: UInt8[np.ndarray, "*shape"]
) -> UInt8[np.ndarray, "*shape"]:
    """Absolute differences of two pictures, `GAIN` times as bright: black where they are alike."""
    return np.clip(GAIN * np.abs(one.astype(np.int16) - other), 0, 255).astype(np.uint8)


def _tiles(found: Evaluation) -> dict[str, str]:
    """The figures of the first checkpoint, with all its grids."""
    report, name = found.report, found.subjects[0].variants[-1].name
    one = report.variant(name)
    tiles = {f"of the float model's bytes ({name})": f"{one.size.bytes / report.reference.size.bytes:.0%}"}
    for metric in ("psnr", "latent_error"):
        if metric in report.units:
            meaning = f"median {report.titles[metric]} to the float model's pictures"
            tiles[meaning] = score_caption(report.median(name, metric), report.units[metric])
    if curve := found.curve(name):
        tiles["teacher-forced error of the prediction"] = f"{100 * curve.prediction_error:.2g} %"
    return tiles


def _sliders(found: Evaluation, subject: Subject, shown: Shown) -> Section:
    report, name = found.report, subject.variants[-1].name
    reference, own = shown[report.reference.name], shown[name]
    prompts = list(dict.fromkeys(report.prompts[: len(own)]))
    rows_of = {prompt: report.prompts.index(prompt) for prompt in prompts}
    captions = dict.fromkeys(prompts, "")
    if "psnr" in report.units:
        scores = report.shown_scores(name)
        captions = {prompt: score_caption(scores[row], "dB") for prompt, row in rows_of.items()}
    pairs = {prompt: (reference[row], own[row]) for prompt, row in rows_of.items()}
    text = [
        f"The float model is on the left of each slider, {name} on the right; both started from the same noise."
    ]
    return Section(f"Float and quantized: {subject.name}", text, sliders(("float", name), pairs, captions))


def _grid(found: Evaluation, shown: Shown) -> Section:
    report = found.report
    reference = shown[report.reference.name]
    columns = {report.reference.name: reference}
    for variant in report.variants:
        columns[variant.name] = shown[variant.name]
        columns[f"difference x {GAIN}: {variant.name}"] = difference(reference, shown[variant.name])
    scores = {}
    if "psnr" in report.units:
        scores = {one.name: report.shown_scores(one.name) for one in report.variants}
    text = [
        f"Under each picture stands its PSNR to the float model's. Maps show the difference, {GAIN} times as bright."
    ]
    return Section("All variants", text, pictures(columns, report.prompts[: len(reference)], scores))


def _scores(found: Evaluation, figures: Mapping[str, Figure]) -> Section:
    report = found.report
    text = [f"{settings_line(report)}. Median and quartiles over the pictures."]
    if "psnr" in report.units:
        text.append(floor_sentence(report))
    text += [size_sentence(report, variant.name) for variant in report.variants]
    body = (
        drawing("PSNR of every picture, by variant", png(figures["psnr.png"]))
        if "psnr.png" in figures
        else ""
    )
    return Section("How far the pictures are from the float model's", text, body + table(rows(report)))


def _trajectories(found: Evaluation, figures: Mapping[str, Figure]) -> list[Section]:
    if not found.curves:
        return []
    text = [
        f"Along {found.curves[0].trajectories} trajectories of the float model, both models were given the same "
        "latents (teacher forcing): the error of each step, block and layer by itself. The shaded band spans the "
        "trajectories. On the right each model follows its own latents, so that errors add up."
    ]
    body = drawing(curve_conclusion(found.curves), png(figures["trajectory_errors.png"]))
    body += table(trajectory_table(found.curves))
    for one in found.curves:
        body += drawing(
            f"{one.variant}: error of each block and of the worst layers by noise level",
            png(figures[f"layer_errors/{slug_of(one.variant)}.png"]),
        )
    return [Section("Where errors arise", text, body)]


def _attributes(found: Evaluation) -> list[Section]:
    if not found.attributes:
        return []
    shown = table(attribute_table(found.attributes))
    return [Section("Is what the prompt asks for still there?", [attributes_told(found)], shown)]


def _sets(found: Evaluation) -> list[Section]:
    return [
        Section(f"Taken as a set, seen by {network}", told, table(shown))
        for network, (told, shown) in set_parts(found).items()
    ]


def _flat(found: Evaluation) -> list[Section]:
    if not found.flat:
        return []
    text = [
        f"Standard deviation around a plane in the flattest quarter of 16 x 16 tiles, in levels of 255, over "
        f"{found.flat[0].pictures} pictures of flat scenes. What is added to the float model's noise is grain that "
        "quantization makes; if it grows with the number of steps, errors add up."
    ]
    return [Section("Noise in flat areas", text, table(flat_table(found.flat)))]


def _cost(found: Evaluation) -> list[Section]:
    if not found.costs:
        return []
    text = [
        f"Measured on {found.machine}. One picture at a time, after one to warm up; median and quartiles. "
        "Text encoders are left out. The process's peak counts from its start. Energy was not measured."
    ]
    return [Section("Time, memory and size", text, table(cost_table(found)))]


def _provenance(found: Evaluation) -> Section:
    listed = [["checkpoint", "recipe", "made by", "files", "MB"]]
    for one in found.subjects:
        files = ", ".join(one.files) or "a run's folder, not exported"
        mb = f"{sum(one.files.values()) / 1e6:,.2f}" if one.files else ""
        recipe, made_by = (str(one.meta.get(key, "not told")) for key in ("recipe", "producer"))
        listed.append([one.name, recipe, made_by, files, mb])
    text = [
        f"{settings_line(found.report)}. {found.machine}. report.json holds every score of every picture, every prompt "
        "and every seed."
    ]
    return Section("Where these figures come from", text, table(listed))
