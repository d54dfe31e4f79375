"""How far a checkpoint's weights are from the float model's."""

import mlx.core as mx
import mlx.nn as nn

from ditq import capture
from ditq.checkpoint.checkpoint import QuantizedCheckpoint
from ditq.checkpoint.inject import check_fits


def weight_errors(network: nn.Module, checkpoint: QuantizedCheckpoint) -> dict[str, dict[str, float]]:
    """Per layer `relative_error` (Euclidean norms), `max_abs`, and `bits`, against the float layers of `network`.

    Smoothing is undone first. Raises UserError, naming the layer, for a checkpoint that does not fit.
    """
    modules = capture.layers(network)
    check_fits(modules, checkpoint.weights)
    errors = {}
    for path, weight in checkpoint.weights.items():
        there = capture.matrix(modules[path]).astype(mx.float32)
        difference = weight.effective() - there
        relative = mx.linalg.norm(difference) / mx.linalg.norm(there)
        largest = mx.abs(difference).max()
        mx.eval(relative, largest)
        errors[path] = {
            "relative_error": float(relative),
            "max_abs": float(largest),
            "bits": float(weight.spec.bits),
        }
    return errors
