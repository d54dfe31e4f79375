"""Diagnostics: what a model's layers receive along its trajectories, and what that means for their quantizers."""

from ditq.diagnostics.channels import ChannelStatistics, merged, moving_shift
from ditq.diagnostics.collect import InputRecipe, collect_inputs, inputs_forecast
from ditq.diagnostics.cost import forecast
from ditq.diagnostics.judge import Thresholds, verdict
from ditq.diagnostics.layer_files import (
    LayerStatistics,
    PooledStatistics,
    merge_inputs,
    read_layer_statistics,
)
from ditq.diagnostics.layer_inputs import InputStatistics
from ditq.diagnostics.names import (
    POSTGELU,
    block_linears,
    chosen,
    label,
    observed_paths,
    representative,
    stream,
)
from ditq.diagnostics.profiling import ProfileRecipe, parts_of, profile
from ditq.diagnostics.statistics import ActivationStatistics, merge, read_statistics, write_statistics
from ditq.diagnostics.summary_table import LEGEND, summary_rows
from ditq.diagnostics.tracing import Recorder, traced

__all__ = [
    "LEGEND",
    "POSTGELU",
    "ActivationStatistics",
    "ChannelStatistics",
    "InputRecipe",
    "InputStatistics",
    "LayerStatistics",
    "PooledStatistics",
    "ProfileRecipe",
    "Recorder",
    "Thresholds",
    "block_linears",
    "chosen",
    "collect_inputs",
    "forecast",
    "inputs_forecast",
    "label",
    "merge",
    "merge_inputs",
    "merged",
    "moving_shift",
    "observed_paths",
    "parts_of",
    "profile",
    "read_layer_statistics",
    "read_statistics",
    "representative",
    "stream",
    "summary_rows",
    "traced",
    "verdict",
    "write_statistics",
]
