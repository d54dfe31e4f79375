"""A comparison of methods as a table, as a page of docs/results, as JSON, and as the sentence above its figure."""

from dataclasses import asdict
from typing import Any

from ditq.evaluation.compare_methods import Comparison, Entry
from ditq.evaluation.report import Spread
from ditq.evaluation.report_table import markdown

KIND, VERSION = "ditq.method_comparison", 1
HEADING = [
    "method",
    "bits",
    "bits per weight",
    "layer error, %",
    "block error, %",
    "latent error, %",
    "PSNR, dB",
    "quantized in, s",
    "peak memory, MB",
]


def rows(comparison: Comparison) -> list[list[str]]:
    """The table, its heading first: a row per entry, errors in percent, medians with quartiles in parentheses."""
    return [HEADING, *(_row(entry) for entry in comparison.entries)]


def by_bits(comparison: Comparison) -> dict[int, list[Entry]]:
    """The entries by their number of bits, in the order in which they were run."""
    found: dict[int, list[Entry]] = {}
    for entry in comparison.entries:
        found.setdefault(entry.bits, []).append(entry)
    return found


def conclusion(comparison: Comparison) -> str:
    """The sentence above the figure: at each number of bits, the method that gains most over rounding.

    A gain is the median over the pictures of the difference in PSNR to the better of the two roundings.
    """
    floor = comparison.report.floor.spread("psnr").median
    gains_by_bits, has_baseline = [], False
    for bits, entries in sorted(by_bits(comparison).items()):
        if len(entries) < 2:
            continue
        plain = [entry for entry in entries if entry.contender.startswith("rounding")]
        has_baseline |= bool(plain)
        if not plain:
            continue
        base = max(plain, key=lambda entry: entry.psnr.median)
        gains = {
            one.contender: comparison.report.gain(
                f"{one.contender} W{bits}", f"{base.contender} W{bits}"
            ).spread.median
            for one in entries
            if one not in plain
        }
        best = max(gains, key=lambda name: gains[name], default=None)
        if best is not None and gains[best] > 0:
            gains_by_bits.append(f"{gains[best]:+.1f} dB at {bits} bits ({best})")
    if not has_baseline:
        return f"Weight methods on {comparison.model}"
    if not gains_by_bits:
        return f"No method is nearer to the float pictures than rounding on {comparison.model}"
    return f"{comparison.model}: the best method over rounding, {', '.join(gains_by_bits)}; other seeds: {floor:.1f} dB"


def page(comparison: Comparison, figure: str, commands: str) -> str:
    """The page of docs/results; `figure` is the file name of its figure, `commands` are those that wrote both."""
    facts = comparison.facts
    grid = (
        "one scale per output channel" if facts["group_size"] is None else f"groups of {facts['group_size']}"
    )
    kind = "symmetric" if facts["symmetric"] else "asymmetric"
    settings = facts["settings"]
    floor = comparison.report.floor.spread("psnr")
    return f"""# Weight methods on `{comparison.model}`

{conclusion(comparison)}.

![Error against bits, a line per method]({figure})

Every method quantizes the same layers (all layers of the blocks but their modulation) on the same grid ({kind}, {grid})
from the same {facts["calibration_rows"]} calibration rows ({facts["calibration_pictures"]} pictures); activations stay
float. Layer and block errors are measured on {facts["held_out_pictures"]} other recorded pictures, PSNR and latent
error on {facts["pictures"]} prompts that calibration never saw ({settings["steps"]} steps, guidance
{settings["guidance"]:g}, the same seeds for all). The float model from other seeds is {floor.median:.1f} dB from its
own pictures.

- layer error: relative error of a layer's output for the float model's input, mean over the layers. A method that
  compensates for the errors of earlier layers (Qronos) does not minimise it.
- block error: relative error behind a block of what becomes the prediction (in SD3 the image stream), all blocks
  quantized, mean over the blocks.
- latent error and PSNR: against the float model's latents and pictures, median (quartiles) over the pictures.
- seconds: time of quantizing, without the block cache that all methods share. Memory: peak of MLX's memory meanwhile
  beside the model; the Hessians, which NumPy holds, are not included.

{markdown(rows(comparison))}

Made by:

```bash
{commands}
```
"""


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything but the pictures."""
    entries = [asdict(entry) for entry in comparison.entries]
    return {
        "kind": KIND,
        "version": VERSION,
        "model": comparison.model,
        "facts": comparison.facts,
        "entries": entries,
        "floor": {name: asdict(comparison.report.floor.spread(name)) for name in comparison.report.units},
        "scores": {one.name: one.scores for one in comparison.report.variants},
    }


def _row(entry: Entry) -> list[str]:
    return [
        entry.contender,
        str(entry.bits),
        f"{entry.bits_per_weight:.2f}",
        f"{100 * entry.layer_error:.2f}",
        f"{100 * entry.block_error:.2f}",
        _spread(entry.latent_error, 2),
        _spread(entry.psnr, 1),
        f"{entry.seconds:.1f}",
        f"{entry.peak_memory / 1e6:.0f}",
    ]


def _spread(spread: Spread, digits: int) -> str:
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} to {spread.high:.{digits}f})"
