"""Layers that compute on quantization grids."""

from ditq.nn.clock import StepClock
from ditq.nn.quantized_linear import ActivationGrid, QuantizedLinear

__all__ = ["ActivationGrid", "QuantizedLinear", "StepClock"]
