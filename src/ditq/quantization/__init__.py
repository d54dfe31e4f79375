"""Post-training quantization: a model, a recipe and calibration data in, a quantized checkpoint out."""

from ditq.quantization.assignment import Assigned, assigned
from ditq.quantization.calibration import Calibration
from ditq.quantization.driver import Quantized, quantize_network
from ditq.quantization.forecast import Forecast, forecast
from ditq.quantization.recipe_run import quantize
from ditq.quantization.storage import check_storable
from ditq.quantization.weight_track import CONTENTS, WeightTrack, quantize_weights

__all__ = [
    "CONTENTS",
    "Assigned",
    "Calibration",
    "Forecast",
    "Quantized",
    "WeightTrack",
    "assigned",
    "check_storable",
    "forecast",
    "quantize",
    "quantize_network",
    "quantize_weights",
]
