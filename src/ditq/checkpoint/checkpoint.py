"""A quantized model in memory: its weights on their grids and, if there are any, its activation grids."""

from dataclasses import dataclass, field
from typing import Annotated, Any

from ditq.activations import ActivationTable
from ditq.checkpoint.origin import Origin
from ditq.core.quantized import QuantizedWeight
from ditq.core.schema import Limit

ModelName = Annotated[str, Limit("that names a model", bool)]
"""A model's name in a stored file."""


@dataclass(frozen=True)
class QuantizedCheckpoint:
    """Everything that turns the float model `model` into its quantized self."""

    model: str
    """The name of the model that it was made from."""
    weights: dict[str, QuantizedWeight]
    """By module path."""
    activations: ActivationTable | None = None
    """None: activations stay as they are (W4A16)."""
    meta: dict[str, Any] = field(default_factory=dict)
    """How it was made."""
    made_from: Origin | None = None
    """The float weights that it was made from; None: not known."""
