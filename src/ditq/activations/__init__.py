"""Static activation grids: bits, scale and shift of every layer's input at every timestep."""

from ditq.activations.table import ActivationTable

__all__ = ["ActivationTable"]
