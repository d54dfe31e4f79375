"""GPTQ (Frantar et al. 2022, arXiv 2210.17323): the columns still to come compensate each column's rounding error."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from ditq.weights.columns.damping import Ladder, mean_of, rungs

LADDER = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
"""The search starts at the middle one, 0.1; adding a rung moves the start."""


@dataclass(frozen=True)
class GPTQ:
    """The loss |X~ W' - X~ Q'|: the quantized model's inputs in both places."""

    damping: Ladder = field(
        default=LADDER,
        metadata={"help": "added to H's diagonal, in means of it; several: the best is chosen"},
    )
    act_order: bool = field(default=True, metadata={"help": "columns with the largest inputs first"})
    search: bool = field(
        default=True, metadata={"help": "look for the range with the least error, inputs weighed"}
    )
    corrects = False
    title = "GPTQ"

    def __post_init__(self) -> None:
        rungs(self.damping)

    def unit(self, hessian: Float32[np.ndarray, "in in"]) -> float:
        """The mean of the diagonal."""
        return float(mean_of(np.diagonal(hessian)))
