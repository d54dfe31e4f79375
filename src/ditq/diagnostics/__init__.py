"""Diagnostics: what a model's layers receive along its trajectories, and what that means for their quantizers."""

from ditq.diagnostics.channels import ChannelStatistics, merged, moving_shift
from ditq.diagnostics.collect import InputRecipe, collect_inputs
from ditq.diagnostics.collect_forecast import ObservedInput, collect_cost, collect_forecast, input_shapes
from ditq.diagnostics.damage import Damage, read_damage, write_damage
from ditq.diagnostics.judge import Thresholds, verdict
from ditq.diagnostics.layer_files import (
    LayerStatistics,
    PooledStatistics,
    read_layer_statistics,
)
from ditq.diagnostics.layer_inputs import InputStatistics
from ditq.diagnostics.layer_names import Named, chosen, representative, streams
from ditq.diagnostics.measure_damage import DamageRecipe, damage_cost, measure_damage
from ditq.diagnostics.merging import merge_inputs
from ditq.diagnostics.profiling import ProfileRecipe, observed_paths, parts_of, profile, profile_forecast
from ditq.diagnostics.statistics import ActivationStatistics, merge, read_statistics, write_statistics
from ditq.diagnostics.summary_table import LEGEND, summary_rows

__all__ = [
    "LEGEND",
    "ActivationStatistics",
    "ChannelStatistics",
    "Damage",
    "DamageRecipe",
    "InputRecipe",
    "InputStatistics",
    "LayerStatistics",
    "Named",
    "ObservedInput",
    "PooledStatistics",
    "ProfileRecipe",
    "Thresholds",
    "chosen",
    "collect_cost",
    "collect_forecast",
    "collect_inputs",
    "damage_cost",
    "input_shapes",
    "measure_damage",
    "merge",
    "merge_inputs",
    "merged",
    "moving_shift",
    "observed_paths",
    "parts_of",
    "profile",
    "profile_forecast",
    "read_damage",
    "read_layer_statistics",
    "read_statistics",
    "representative",
    "streams",
    "summary_rows",
    "verdict",
    "write_damage",
    "write_statistics",
]
