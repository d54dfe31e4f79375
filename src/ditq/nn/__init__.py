"""Layers that compute on quantization grids."""

from ditq.nn.clock import StepClock, clock_of
from ditq.nn.each_alone import alone
from ditq.nn.on_grid import OnGrid, on_grids
from ditq.nn.quantized_conv import QuantizedConv2d
from ditq.nn.quantized_layer import Backend, usual_backend
from ditq.nn.quantized_linear import QuantizedLinear
from ditq.nn.weight_only import WeightOnlyConv2d, WeightOnlyLinear

__all__ = [
    "Backend",
    "OnGrid",
    "QuantizedConv2d",
    "QuantizedLinear",
    "StepClock",
    "WeightOnlyConv2d",
    "WeightOnlyLinear",
    "alone",
    "clock_of",
    "on_grids",
    "usual_backend",
]
