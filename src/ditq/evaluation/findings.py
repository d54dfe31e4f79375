"""What an evaluation shows, in sentences with figures: pairs of variants that differ in one thing."""

from ditq.evaluation.report import EvalReport


def compared(report: EvalReport, name: str, over: str, told: str, by: str) -> str:
    """ "AdaRound is 1.2 dB nearer to the float pictures than rounding (median; nearer on 30 of 32)."

    `told` and `by` name the two variants in the sentence.
    """
    gain = report.gain(name, over)
    median = gain.spread.median
    if abs(median) < 0.05:
        verdict = f"{told} is as near to the float pictures as {by}"
    else:
        verdict = (
            f"{told} is {abs(median):.1f} dB {'nearer to' if median > 0 else 'farther from'} "
            f"the float pictures than {by}"
        )
    return f"{verdict} (median of {gain.pictures} pictures; nearer on {gain.wins})."


def smaller(report: EvalReport, name: str) -> str:
    """How much less the variant's transformer takes than the reference's in 16 bits."""
    size, whole = report.variant(name).size, report.reference.size
    return (
        f"{name}: {size.bits_per_weight:.2f} bits per quantized weight; the transformer takes "
        f"{size.bytes / 1e6:.2f} MB, {size.bytes / whole.bytes:.0%} of the {whole.bytes / 1e6:.2f} MB of 16 bits."
    )


def floor_told(report: EvalReport) -> str:
    """How far other seeds move the pictures, which is what a difference has to be compared with."""
    spread = report.floor.spread("psnr")
    return (
        f"The float model itself, started from other seeds, is {spread.median:.1f} dB away from its own pictures "
        f"(quartiles {spread.low:.1f} and {spread.high:.1f})."
    )
