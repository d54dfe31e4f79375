"""Activation grids: bits, scale and shift of every layer's input, at every timestep or for all of them.

A method of `METHODS` decides from the statistics of `ditq.diagnostics`; its `Decision` holds a grid for each input, of
any kind that `core.activation_grid.ActivationGrid` describes.
"""

from ditq.activations.bits import ByError, ByTier, Fixed
from ditq.activations.decision import ActivationMethod, Decision, Weights
from ditq.activations.dual_scale import DualScale
from ditq.activations.from_recipe import METHODS, described, method_for
from ditq.activations.grid_search import Inputs, find_grid
from ditq.activations.log_snr import LogSNRGrid
from ditq.activations.per_timestep import PerTimestep
from ditq.activations.per_token import PerToken
from ditq.activations.quant_config import read_quant_config, write_quant_config
from ditq.activations.searched_grids import SearchedGrids
from ditq.activations.smooth import Smoothing
from ditq.activations.static import Static
from ditq.activations.table import ActivationTable
from ditq.activations.temporal import observed_ranges, temporal_analysis
from ditq.activations.tiers import Tiers

__all__ = [
    "METHODS",
    "ActivationMethod",
    "ActivationTable",
    "ByError",
    "ByTier",
    "Decision",
    "DualScale",
    "Fixed",
    "Inputs",
    "LogSNRGrid",
    "PerTimestep",
    "PerToken",
    "SearchedGrids",
    "Smoothing",
    "Static",
    "Tiers",
    "Weights",
    "described",
    "find_grid",
    "method_for",
    "observed_ranges",
    "read_quant_config",
    "temporal_analysis",
    "write_quant_config",
]
