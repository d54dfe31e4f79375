"""What quantization costs: same-seed pictures of each variant against the float model's."""

from ditq.evaluation.benchmark import FLOOR, Drawn, draw, evaluate
from ditq.evaluation.metrics import METRICS, PSNR, SSIM, LatentError, Metric, Samples
from ditq.evaluation.prompts import FIRST_SEED, evaluation_prompts
from ditq.evaluation.report import (
    EvalReport,
    Gain,
    Spread,
    VariantReport,
    markdown,
    read_report,
    rows,
    write_report,
)
from ditq.evaluation.variants import FLOAT, Size, Variant, float_variant, size_of

__all__ = [
    "FIRST_SEED",
    "FLOAT",
    "FLOOR",
    "METRICS",
    "PSNR",
    "SSIM",
    "Drawn",
    "EvalReport",
    "Gain",
    "LatentError",
    "Metric",
    "Samples",
    "Size",
    "Spread",
    "Variant",
    "VariantReport",
    "draw",
    "evaluate",
    "evaluation_prompts",
    "float_variant",
    "markdown",
    "read_report",
    "rows",
    "size_of",
    "write_report",
]
