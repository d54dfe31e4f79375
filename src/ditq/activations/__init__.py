"""Static activation grids: bits, scale and shift of every layer's input at every timestep."""

from ditq.activations.analysis import Analysis, Decision
from ditq.activations.bits import ByError, ByTier, Fixed
from ditq.activations.grid_search import Grid, Inputs, find_grid
from ditq.activations.quant_config import read_quant_config, table_of, write_quant_config
from ditq.activations.smooth import Smoothing
from ditq.activations.table import ActivationTable
from ditq.activations.temporal import temporal_analysis
from ditq.activations.tiers import Tiers

__all__ = [
    "ActivationTable",
    "Analysis",
    "ByError",
    "ByTier",
    "Decision",
    "Fixed",
    "Grid",
    "Inputs",
    "Smoothing",
    "Tiers",
    "find_grid",
    "read_quant_config",
    "table_of",
    "temporal_analysis",
    "write_quant_config",
]
