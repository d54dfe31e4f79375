"""What quantization costs: same-seed pictures of each variant against the float model's."""

from ditq.evaluation.drawing import Drawn, draw, read_drawn
from ditq.evaluation.findings import comparison_sentence, floor_sentence, size_sentence
from ditq.evaluation.metrics import DEFAULT_METRICS, METRICS, Metric, PairMetric, Samples
from ditq.evaluation.prompts import FIRST_SEED, evaluation_prompts
from ditq.evaluation.report import EvalReport, Gain, Spread, VariantReport, read_report, write_report
from ditq.evaluation.report_table import markdown, rows
from ditq.evaluation.rounding_baseline import rounded
from ditq.evaluation.same_seed import FLOOR, evaluate
from ditq.evaluation.trajectory_curves import Curves, measure_along_trajectories, units
from ditq.evaluation.variants import (
    FLOAT,
    Size,
    Variant,
    fingerprint_of,
    float_variant,
    lazy_variant,
    quantized_variant,
    size_of,
    size_on,
)

__all__ = [
    "DEFAULT_METRICS",
    "FIRST_SEED",
    "FLOAT",
    "FLOOR",
    "METRICS",
    "Curves",
    "Drawn",
    "EvalReport",
    "Gain",
    "Metric",
    "PairMetric",
    "Samples",
    "Size",
    "Spread",
    "Variant",
    "VariantReport",
    "comparison_sentence",
    "draw",
    "evaluate",
    "evaluation_prompts",
    "fingerprint_of",
    "float_variant",
    "floor_sentence",
    "lazy_variant",
    "markdown",
    "measure_along_trajectories",
    "quantized_variant",
    "read_drawn",
    "read_report",
    "rounded",
    "rows",
    "size_of",
    "size_on",
    "size_sentence",
    "units",
    "write_report",
]
