"""What a recipe asks of the activations, as an analysis.

"activations": {"bits": 8}                             the same for every layer and timestep
"activations": {"bits": "tiers"}                       4, 6 or 8 by the size of the values
"activations": {"bits": "error", "average_bits": 6}    least output error under a budget
beside it: "scale": "mse" or "max", "smooth": "none", "foldable" or "all", "shift_gain": a part
"""

from collections.abc import Mapping
from typing import Any, get_args

from ditq.activations.analysis import Analysis
from ditq.activations.bits import BitChoice, ByError, ByTier, Fixed
from ditq.activations.grid_search import Range
from ditq.activations.smooth import POLICIES, Smoothing
from ditq.core.errors import UserError
from ditq.core.spec import Spec

KEYS = ("bits", "average_bits", "scale", "smooth", "shift_gain")
SMOOTH = "none"
"""Without a word: factors move error into the weights, and a method that corrects errors needs none."""


def analysis_for(asked: Any, weights: Spec, where: str) -> Analysis | None:
    """The analysis that a recipe asks for, None where activations stay as they are.

    `weights` is the grid that smoothing is judged on. Raises UserError, beginning with `where`.
    """
    if asked is None:
        return None
    unknown = sorted(set(asked) - set(KEYS)) if isinstance(asked, Mapping) else [repr(asked)]
    if unknown:
        raise UserError(
            f"{where}: activations", got=", ".join(unknown), expected=f"some of {', '.join(KEYS)}"
        )
    scale, smooth = asked.get("scale", "mse"), asked.get("smooth", SMOOTH)
    gain = asked.get("shift_gain", Analysis.shift_gain)
    if scale not in get_args(Range):
        raise UserError(f"{where}: activations: scale", got=scale, expected=" or ".join(get_args(Range)))
    if smooth not in POLICIES:
        raise UserError(f"{where}: activations: smooth", got=smooth, expected=" or ".join(POLICIES))
    if isinstance(gain, bool) or not isinstance(gain, float | int):
        raise UserError(f"{where}: activations: shift_gain", got=gain, expected="a number")
    smoothing = Smoothing(smooth, weights=weights)
    return Analysis(_bits(asked, where), how=scale, smoothing=smoothing, shift_gain=float(gain))


def _bits(asked: Mapping[str, Any], where: str) -> BitChoice:
    bits, average = asked.get("bits"), asked.get("average_bits")
    if average is not None and (bits != "error" or isinstance(average, bool | str)):
        expected = 'a number, with "bits": "error"'
        raise UserError(f"{where}: activations: average_bits", got=average, expected=expected)
    if bits == "tiers":
        return ByTier()
    if bits == "error":
        return ByError() if average is None else ByError(float(average))
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise UserError(f"{where}: activations: bits", got=bits, expected='from 2 to 8, "tiers" or "error"')
    return Fixed(bits)
