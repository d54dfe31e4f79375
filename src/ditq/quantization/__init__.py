"""Post-training quantization: a model, a recipe and calibration data in, a quantized checkpoint out."""

from ditq.quantization.driver import Assigned, Calibration, assigned, quantize
from ditq.quantization.track import CONTENTS, WeightTrack, quantize_weights

__all__ = [
    "CONTENTS",
    "Assigned",
    "Calibration",
    "WeightTrack",
    "assigned",
    "quantize",
    "quantize_weights",
]
