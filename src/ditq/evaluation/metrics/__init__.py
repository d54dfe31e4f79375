"""The metrics of an evaluation, by name."""

from collections.abc import Callable, Sequence

from ditq.core.errors import UserError
from ditq.evaluation.metrics.base import Better, Metric, PairMetric, Picture, Samples, Values
from ditq.evaluation.metrics.class_score import ClassScore
from ditq.evaluation.metrics.flip import FLIP
from ditq.evaluation.metrics.frechet import Frechet
from ditq.evaluation.metrics.kernel_distances import Cubic, Gaussian
from ditq.evaluation.metrics.latent_error import LatentError, relative_error
from ditq.evaluation.metrics.peak_signal_to_noise import PSNR, psnr
from ditq.evaluation.metrics.precision_recall import Precision, Recall
from ditq.evaluation.metrics.sets import Features, SetMetric, SetResult
from ditq.evaluation.metrics.structural_similarity import SSIM, ssim

__all__ = [
    "DEFAULT_METRICS",
    "FLIP",
    "METRICS",
    "PSNR",
    "SET_METRICS",
    "SSIM",
    "Better",
    "Features",
    "LatentError",
    "Metric",
    "PairMetric",
    "Picture",
    "Samples",
    "SetMetric",
    "SetResult",
    "Values",
    "metrics_named",
    "psnr",
    "relative_error",
    "ssim",
]

METRICS: dict[str, Callable[[], Metric]] = {
    "psnr": PSNR,
    "latent_error": LatentError,
    "ssim": SSIM,
    "flip": FLIP,
}
"""Each name's factory. A metric that needs a model or a heavy library loads it when the factory is called."""

SET_METRICS: dict[str, Callable[[], SetMetric]] = {
    "frechet": Frechet,
    "cubic_mmd": Cubic,
    "gaussian_mmd": Gaussian,
    "precision": Precision,
    "recall": Recall,
    "class_score": ClassScore,
}
"""The same for metrics of two whole sets of pictures, given as features: `sampled(reference, candidate)`."""

DEFAULT_METRICS = ("psnr", "latent_error", "ssim")
"""What an evaluation computes unless it is told otherwise."""


def metrics_named(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names, built. Raises UserError for a name that is not in `METRICS`."""
    for name in names:
        if name not in METRICS:
            raise UserError("metrics", got=name, expected=" or ".join(METRICS))
    return [METRICS[name]() for name in dict.fromkeys(names)]
