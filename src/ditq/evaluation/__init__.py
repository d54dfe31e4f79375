"""What quantization costs: same-seed pictures of each variant against the float model's."""

from ditq.evaluation.drawing import FLOOR, Drawn, draw, evaluate
from ditq.evaluation.findings import compared, floor_told, smaller
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
from ditq.evaluation.rounding_baseline import rounded
from ditq.evaluation.variants import (
    FLOAT,
    Size,
    Variant,
    fingerprint_of,
    float_variant,
    made_variant,
    quantized_variant,
    size_of,
    size_on,
)

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
    "compared",
    "draw",
    "evaluate",
    "evaluation_prompts",
    "fingerprint_of",
    "float_variant",
    "floor_told",
    "made_variant",
    "markdown",
    "quantized_variant",
    "read_report",
    "rounded",
    "rows",
    "size_of",
    "size_on",
    "smaller",
    "write_report",
]
