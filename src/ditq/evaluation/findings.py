"""What an evaluation shows, as sentences with figures."""

import numpy as np

from ditq.evaluation.report import EvalReport
from ditq.evaluation.report_table import digits_of, heading_of


def comparison_sentence(
    report: EvalReport, name: str, over: str, first: str, second: str, metric: str = "psnr"
) -> str:
    """How much better the variant `name` is than `over`, which the sentence calls `first` and `second`.

    "AdaRound is 1.2 dB nearer to the float pictures than rounding (median of 32 pictures; nearer on 30)."
    """
    if metric in report.capped and (identical := _identical(report, name, over, first, second, metric)):
        return identical
    gain = report.gain(name, over, metric)
    median, nearer = gain.spread.median, metric == "psnr"
    digits = 1 if nearer else digits_of(abs(report.variant(over).spread(metric).median))
    shown = f"{abs(median):.{digits}f}"
    if float(shown) == 0:
        verdict = f"{first} is as near to the float pictures as {second}"
        if not nearer:
            verdict = f"{heading_of(report, metric)}: {first} is as good as {second}"
    elif nearer:
        toward = "nearer to" if median > 0 else "farther from"
        verdict = f"{first} is {shown} dB {toward} the float pictures than {second}"
    else:
        toward = "better" if median > 0 else "worse"
        verdict = f"{heading_of(report, metric)}: {first} is {shown} {toward} than {second}"
    if gain.pictures == 1:
        return f"{verdict}."
    word = "nearer" if nearer else "better"
    return f"{verdict} (median of {gain.pictures} pictures; {word} on {gain.wins})."


def size_sentence(report: EvalReport, name: str) -> str:
    """How many bytes the variant's files take, and what part that is of the reference's weights in 16 bits."""
    size, whole = report.variant(name).size, report.reference.size
    return (
        f"{name}: {size.bits_per_weight:.2f} bits per quantized weight; the files take {size.bytes / 1e6:.2f} MB, "
        f"{size.bytes / whole.bytes:.0%} of the {whole.bytes / 1e6:.2f} MB of 16 bits."
    )


def floor_sentence(report: EvalReport, metric: str = "psnr") -> str:
    """How far another seed moves the float model's pictures: a variant's distance is to be compared with that."""
    spread = report.floor.spread(metric)
    if metric == "psnr":
        return (
            f"The float model itself, started from other seeds, is {spread.median:.1f} dB away from its own pictures "
            f"(quartiles {spread.low:.1f} and {spread.high:.1f})."
        )
    median, low, high = (
        f"{x:.{digits_of(spread.median)}f}" for x in (spread.median, spread.low, spread.high)
    )
    quartiles = f" (quartiles {low} and {high})" if len(report.floor.scores[metric]) > 1 else ""
    return f"{heading_of(report, metric)} of the float model itself, started from other seeds: {median}{quartiles}."


def _identical(report: EvalReport, name: str, over: str, first: str, second: str, metric: str) -> str | None:
    """The sentence where most pictures of a variant are identical to the float ones: no figure describes that."""
    counts = [int(np.isinf(report.shown_scores(one, metric)).sum()) for one in (name, over)]
    pictures = len(report.prompts)
    if 2 * max(counts) <= pictures:
        return None
    return (
        f"{first} draws {counts[0]} of {pictures} pictures identical to the float ones, {second} {counts[1]}."
    )
