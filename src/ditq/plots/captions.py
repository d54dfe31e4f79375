"""What stands under a picture."""

import math


def score_caption(score: float, unit: str) -> str:
    """A picture's score with its unit; an infinite one is that of a picture identical to the float model's."""
    return f"{score:.1f} {unit}" if math.isfinite(score) else "identical"
