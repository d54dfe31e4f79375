"""Post-training quantization: a model, a recipe and calibration data in, a quantized checkpoint out."""

from ditq.ptq.recipes import Assigned, Calibration, assigned, quantize
from ditq.ptq.track import CONTENTS, WeightTrack, quantize_weights

__all__ = [
    "CONTENTS",
    "Assigned",
    "Calibration",
    "WeightTrack",
    "assigned",
    "quantize",
    "quantize_weights",
]
