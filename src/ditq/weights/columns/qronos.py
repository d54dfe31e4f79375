"""Qronos (Zhang et al. 2025, arXiv 2505.11695): GPTQ that also corrects what earlier layers did to the input."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float32

from ditq.weights.columns.damping import Ladder, rungs
from ditq.weights.columns.factor import greatest_eigenvalue

LADDER = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)


@dataclass(frozen=True)
class Qronos:
    """The loss |X W' - X~ Q'|: the float model's outputs for its own inputs, from the quantized model's inputs."""

    damping: Ladder = field(
        default=LADDER,
        metadata={"help": "added to H's diagonal, in greatest eigenvalues of H; several: the best is chosen"},
    )
    act_order: bool = field(default=True, metadata={"help": "columns with the largest inputs first"})
    search: bool = field(
        default=True, metadata={"help": "look for the range with the least error, inputs weighed"}
    )
    corrects = True
    title = "Qronos"

    def __post_init__(self) -> None:
        rungs(self.damping)

    def unit(self, hessian: Float32[np.ndarray, "in in"]) -> float:
        """The greatest eigenvalue."""
        return greatest_eigenvalue(hessian)
