"""Everything that an evaluation of checkpoints found, as JSON, Markdown and a verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ditq.evaluation.attributes import AttributeScore, attribute_sentence, attribute_table
from ditq.evaluation.cost import DrawingCost, Machine
from ditq.evaluation.distribution import SetScore, as_facts, by_network, set_table, sets_told
from ditq.evaluation.findings import floor_sentence, size_sentence
from ditq.evaluation.flat_field import FlatField
from ditq.evaluation.report import EvalReport
from ditq.evaluation.report_table import markdown, rows
from ditq.evaluation.subjects import Subject
from ditq.evaluation.trajectory_curves import Curves

Table = list[list[str]]


@dataclass(frozen=True)
class Evaluation:
    """The float model against checkpoints: pictures, errors along trajectories, flat fields, cost."""

    report: EvalReport
    subjects: list[Subject]
    parameters: int
    """Of the network."""
    curves: list[Curves]
    flat: list[FlatField]
    costs: list[DrawingCost]
    machine: Machine
    attributes: list[AttributeScore] = field(default_factory=list)
    """Of the float model, every variant and the float model from other seeds; none without a classifier."""
    sets: list[SetScore] = field(default_factory=list)
    """Distances of whole sets of pictures; none of fewer than 20, and none without a network of features."""
    reference: str | None = None
    """The folder of pictures that sets are compared with; None: the float model's from other seeds."""

    def as_json(self) -> dict[str, Any]:
        """The report's JSON (`EvalReport.as_json`) with everything else under keys of its own."""
        return {
            **self.report.as_json(),
            "teacher_forced": [asdict(one) for one in self.curves],
            "flat_field": [{**asdict(one), "added": one.added, "growth": one.growth} for one in self.flat],
            "cost": [asdict(one) for one in self.costs],
            "attributes": [asdict(one) for one in self.attributes],
            "sets": [as_facts(one) for one in self.sets],
            "reference_pictures": self.reference,
            "machine": asdict(self.machine),
            "parameters": self.parameters,
            "checkpoints": [
                {
                    "folder": str(one.folder),
                    "name": one.name,
                    "files": one.files,
                    "variants": [v.name for v in one.variants],
                }
                for one in self.subjects
            ],
        }

    def curve(self, variant: str) -> Curves | None:
        """The curves of a variant; None where none were measured."""
        return next((one for one in self.curves if one.variant == variant), None)

    def bits_overall(self, variant: str) -> float:
        """Bits for each parameter of the whole network, what is not quantized included."""
        return 8 * self.report.variant(variant).size.bytes / self.parameters


def verdict(found: Evaluation, subject: Subject) -> str:
    """Size, quality and weakest point of a checkpoint in a sentence or two: of what it computes with all its grids."""
    report, name = found.report, subject.variants[-1].name
    one, whole = report.variant(name).size, report.reference.size
    told = (
        f"{name} takes {one.bytes / whole.bytes:.0%} of the float model's bytes ({one.bytes / 1e6:,.1f} MB)"
    )
    if "psnr" in report.units:
        floor = report.floor.spread("psnr").median
        told += f"; its pictures are {_psnr(report, name)} the float model's, where another seed is {floor:.1f} dB away"
    parts = [f"{told}."]
    if found.attributes:
        parts.append(attribute_sentence(found.attributes, name, report.reference.name))
    curve = found.curve(name)
    if curve is not None:
        at = int(np.argmax(curve.prediction))
        level = curve.noise_levels[at]
        weak = f"Its prediction is {100 * curve.prediction_error:.2g} % off, worst at noise level {level:.2f}"
        if curve.worst_layers:
            path, error = curve.worst_layers[0]
            weak += f"; the weakest layer is {path} ({100 * error:.2g} % off)"
        parts.append(f"{weak}.")
    flat = next((one for one in found.flat if one.variant == name), None)
    if flat is not None:
        at = flat.steps.index(report.settings["steps"])
        added = f"noise of {flat.added[at]:.2f} levels of 255" if flat.added[at] >= 0.005 else "no noise"
        parts.append(f"In flat areas it adds {added}.")
    return " ".join(parts)


def _psnr(report: EvalReport, name: str) -> str:
    shown = np.array(report.shown_scores(name))
    identical, count = int(np.isinf(shown).sum()), len(shown)
    if 2 * identical > count:
        return f"in {identical} of {count} cases identical to"
    return f"{report.variant(name).spread('psnr').median:.1f} dB (median of {count}) from"


def attributes_told(found: Evaluation) -> str:
    """What the table of attributes holds."""
    asked = max(one.asked for one in found.attributes)
    return (
        f"How often what {asked} prompts ask for is there in the pictures, as the classifier that comes with "
        f"{found.report.model} sees it, with 95 % Wilson intervals; a colour is asked for only of objects that come in "
        "several. Lost: pictures in which something is missing that the float model's picture of the same seed has; "
        "gained: the other way round."
    )


def set_parts(found: Evaluation, variants: Sequence[str] | None = None) -> dict[str, tuple[list[str], Table]]:
    """By network: what its table of whole sets of pictures holds, and the table; of some `variants` alone or of all."""
    scores = [one for one in found.sets if variants is None or one.variant in variants]
    baseline, from_folder = found.report.reference.name, found.reference is not None
    return {
        network: (sets_told(own, baseline, from_folder), set_table(own))
        for network, own in by_network(scores).items()
    }


def trajectory_table(curves: Sequence[Curves]) -> Table:
    """A row for each variant: its teacher-forced error overall and at both ends, and the error of its own latents."""
    heading = [
        "variant",
        "prediction, %",
        "first step, %",
        "last step, %",
        "worst step, %",
        "final latents, %",
        "worst layer",
        "its error, %",
    ]
    table = [heading]
    for one in curves:
        path, error = one.worst_layers[0] if one.worst_layers else ("none", 0.0)
        numbers = [
            one.prediction_error,
            one.prediction[0],
            one.prediction[-1],
            max(one.prediction),
            one.latents[-1],
        ]
        table.append([one.variant, *(f"{100 * x:.3g}" for x in numbers), path, f"{100 * error:.3g}"])
    return table


def flat_table(flat: Sequence[FlatField]) -> Table:
    """A row for each variant and number of steps: noise in flat tiles, in levels of 255."""
    table = [["variant", "steps", "float noise", "noise", "added"]]
    for one in flat:
        for row in zip(one.steps, one.float_noise, one.noise, one.added, strict=True):
            table.append([one.variant, str(row[0]), *(f"{x:.2f}" for x in row[1:])])
    return table


def cost_table(found: Evaluation) -> Table:
    """A row for each variant: time with quartiles, memory, bytes, and bits of every parameter."""
    table = [
        [
            "variant",
            "ms per step",
            "s per picture",
            "pictures",
            "dtype",
            "MLX peak MB",
            "process peak MB",
            "MB on disk",
            "bits per parameter",
        ]
    ]
    for one in found.costs:
        size = found.report.variant(one.variant).size
        star = "" if one.alone else " (beside the float weights)"
        table.append([
            one.variant,
            _spread(1000, one.seconds_per_step, ".1f"),
            _spread(1, one.seconds_per_picture, ".2f"),
            str(one.pictures),
            one.dtype,
            f"{one.mlx_peak / 1e6:,.0f}{star}",
            f"{one.process_peak / 1e6:,.0f}",
            f"{size.bytes / 1e6:,.2f}",
            f"{found.bits_overall(one.variant):.2f}",
        ])  # fmt: skip
    return table


def _spread(factor: float, spread: Any, form: str) -> str:
    middle, low, high = (format(factor * x, form) for x in (spread.median, spread.low, spread.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def settings_line(report: EvalReport) -> str:
    """How the pictures were drawn."""
    s = report.settings
    return (
        f"{report.model}, {len(report.prompts)} pictures of {s['width']} x {s['height']}, {s['steps']} steps, guidance "
        f"{s['guidance']:g}, sampler {s.get('sampler', 'euler')}, seeds from {report.seeds[0]}"
    )


def as_markdown(found: Evaluation) -> str:
    """The report as a Markdown page."""
    report = found.report
    parts = [*(verdict(found, subject) for subject in found.subjects)]
    parts += ["## Same prompt, same seed", f"{settings_line(report)}.", markdown(rows(report))]
    parts += [size_sentence(report, variant.name) for variant in report.variants]
    if "psnr" in report.units:
        parts.append(floor_sentence(report))
    if found.attributes:
        parts += [
            "## What prompts ask for",
            attributes_told(found),
            markdown(attribute_table(found.attributes)),
        ]
    for network, (told, table) in set_parts(found).items():
        parts += [f"## Sets of pictures, by {network}", *told, markdown(table)]
    if found.curves:
        told = f"Both models given the float model's latents, along {found.curves[0].trajectories} of its trajectories."
        parts += ["## Teacher-forced error", told, markdown(trajectory_table(found.curves))]
    if found.flat:
        told = f"Noise in the flattest quarter of the tiles, levels of 255, {found.flat[0].pictures} flat pictures."
        parts += ["## Flat field", told, markdown(flat_table(found.flat))]
    if found.costs:
        parts += [
            "## Cost",
            f"{found.machine}. One picture at a time, warm; median and quartiles.",
            markdown(cost_table(found)),
        ]
    return "\n\n".join(parts) + "\n"
