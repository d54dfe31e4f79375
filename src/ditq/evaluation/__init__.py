"""What quantization costs: same-seed pictures of each variant against the float model's."""

from ditq.evaluation.metrics import METRICS, PSNR, SSIM, LatentError, Metric, Samples

__all__ = ["METRICS", "PSNR", "SSIM", "LatentError", "Metric", "Samples"]
