"""What an evaluation leaves in its folder: report.json, report.md, figures, a page, and a card for each checkpoint."""

from pathlib import Path

from ditq.core.files import write_figure, write_json, write_text
from ditq.evaluation import read_drawn, size_sentence
from ditq.evaluation.full_report import Evaluation, as_markdown
from ditq.evaluation.model_card import model_card
from ditq.evaluation.variants import slug_of

SHOWN = 6
"""Prompts whose pictures are on the page."""
CONTENTS = (
    *("pictures", "trajectories", "flat_field", "cost", "features", "cards"),
    *("report.json", "report.md", "index.html", "psnr.png", "trajectory_errors.png", "layer_errors"),
)
"""What the folder holds: what a forced run removes, and nothing else that may lie there."""


def write_outputs(out: Path, found: Evaluation) -> None:
    """Writes everything but what the measuring itself keeps."""
    from ditq.plots.comparison import scores_by_variant  # matplotlib takes a second
    from ditq.plots.evaluation_page import evaluation_page
    from ditq.plots.trajectory_errors import error_curves, error_map

    report = found.report
    write_json(out / "report.json", found.as_json())
    write_text(out / "report.md", as_markdown(found))
    figures = {}
    if "psnr" in report.units:
        scores = {variant.name: variant.scores["psnr"] for variant in report.variants}
        told = size_sentence(report, report.variants[-1].name)
        figures["psnr.png"] = scores_by_variant(told, scores, "PSNR, dB")
    if found.curves:
        figures["trajectory_errors.png"] = error_curves(found.curves)
        for one in found.curves:
            figures[f"layer_errors/{slug_of(one.variant)}.png"] = error_map(one)
    for name, made in figures.items():
        write_figure(out / name, made)
    names = [report.reference.name, *(variant.name for variant in report.variants)]
    first = range(min(SHOWN, len(report.prompts)))
    pictures = {name: read_drawn(out / "pictures", name).pictures(first) for name in names}
    write_text(out / "index.html", evaluation_page(found, pictures, figures))
    for subject in found.subjects:
        card = out / "cards" / slug_of(subject.name) / "README.md"
        write_text(card, model_card(found, subject))
