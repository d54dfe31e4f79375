"""Layers that compute on quantization grids."""

from ditq.nn.clock import StepClock, clock_of, nearest_rows
from ditq.nn.quantized_linear import ActivationGrid, Backend, QuantizedLinear
from ditq.nn.weight_only import WeightOnlyLinear

__all__ = [
    "ActivationGrid",
    "Backend",
    "QuantizedLinear",
    "StepClock",
    "WeightOnlyLinear",
    "clock_of",
    "nearest_rows",
]
