"""A checkpoint's model card, as the Hugging Face Hub shows it: the README.md of its repository."""

import json

from ditq.evaluation.attributes import attribute_table
from ditq.evaluation.full_report import (
    Evaluation,
    attributes_told,
    cost_table,
    set_parts,
    settings_line,
    trajectory_table,
    verdict,
)
from ditq.evaluation.report_table import markdown, rows
from ditq.evaluation.subjects import Subject

BASES = {
    "sd3-medium": ("stabilityai/stable-diffusion-3-medium", "other", "stabilityai-ai-community"),
    "sd3.5-medium": ("stabilityai/stable-diffusion-3.5-medium", "other", "stabilityai-ai-community"),
    "sd3.5-large": ("stabilityai/stable-diffusion-3.5-large", "other", "stabilityai-ai-community"),
    "sd1.5": ("stable-diffusion-v1-5/stable-diffusion-v1-5", "creativeml-openrail-m", None),
    "sd1.4": ("CompVis/stable-diffusion-v1-4", "creativeml-openrail-m", None),
    "mini": (None, "mit", None),
}
"""By model: the repository that it comes from, its licence as the Hub names it, and the name of one that is "other"."""


def model_card(found: Evaluation, subject: Subject) -> str:
    """The card as Markdown under its YAML header: what it is, how to use it, and what was measured of it."""
    report, names = found.report, [variant.name for variant in subject.variants]
    own = [
        row for row in rows(report) if row[0] in ("variant", report.reference.name, report.floor.name, *names)
    ]
    parts = [_header(report.model, subject), f"# {subject.name}", verdict(found, subject)]
    parts.append(
        f"The transformer of `{report.model}`, quantized with ditq, in MLX's checkpoint format. "
        "Text encoders and decoder are those of the base model and are not part of this folder."
    )
    parts += [
        "## Use",
        _usage(report.model, subject),
        "## Measured quality",
        f"{settings_line(report)}.",
        markdown(own),
    ]
    parts.append(
        "PSNR, SSIM and latent error compare each picture with the float model's of the same prompt and seed."
    )
    wanted = (report.reference.name, *names)
    if found.attributes:
        own_scores = [one for one in found.attributes if one.variant in wanted]
        parts += [attributes_told(found), markdown(attribute_table(own_scores))]
    for told, table in set_parts(found, wanted).values():
        parts += [*told, markdown(table)]
    if curves := [one for one in found.curves if one.variant in names]:
        parts += ["Both models given the same latents:", markdown(trajectory_table(curves))]
    if found.costs:
        table = [row for row in cost_table(found) if row[0] in ("variant", *wanted)]
        parts += ["## Time and memory", f"{found.machine}.", markdown(table)]
    made = [f"- recipe: {subject.meta['recipe']}"] if "recipe" in subject.meta else []
    if subject.calibration_prompts:
        made.append(
            f"- calibrated on {len(subject.calibration_prompts)} prompts, none of which was evaluated"
        )
    if made:
        parts += ["## How it was made", "\n".join(made)]
    return "\n\n".join(parts) + "\n"


def _header(model: str, subject: Subject) -> str:
    base, licence, name = BASES.get(model, (None, "other", None))
    lines = ["---", "library_name: mlx", f"license: {licence}"]
    lines += [f"license_name: {name}"] if name else []
    lines += [f"base_model: {base}", "base_model_relation: quantized"] if base else []
    lines += [
        "pipeline_tag: text-to-image",
        "tags:",
        "- mlx",
        "- ditq",
        "- quantized",
        f"- {json.dumps(model)}",
        "---",
    ]
    return "\n".join(lines)


def _usage(model: str, subject: Subject) -> str:
    folder = subject.folder.resolve().name
    return f"""```python
import ditq

model = ditq.open_checkpoint({json.dumps(folder)})
model.generate("a fox in the snow")
```

The float model is `{model}`: its text encoders and decoder are loaded with it. Other MLX loaders read the folder as a
model with quantized weights and leave the activation grids aside."""
